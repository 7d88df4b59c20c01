"""Claims of the Fisher paper: tested on exact values computed independently."""

import math

import pandas as pd
import pytest
from scipy import stats

from diffusability.claims.claim import load_claims
from diffusability.claims.fisher_findings import check_fisher_claims, fisher_findings
from diffusability.claims.verdicts import CONTRADICTED, NOT_TESTABLE, REPRODUCED, UNDECIDED
from diffusability.study.core.workflow_files import FISHER_CLAIMS as CLAIMS

LEVELS = (0.001, 0.01, 0.1, 1.0)
# FI and FIR of N(0, I_2) behind each function, by independent quadrature
PIXEL = ((1.998, 1.980, 1.818, 1.000), (1.996, 1.961, 1.653, 0.500))
EXACT = {
    "relu": ((874.7, 79.96, 8.862, 1.524), (9.08e5, 8220.0, 74.36, 1.207)),
    "gelu": ((311.4, 56.55, 8.771, 1.525), (2.24e5, 4532.0, 68.51, 1.216)),
    "sigmoid": ((69.51, 42.07, 13.97, 1.917), (1.00e4, 1296.0, 97.9, 1.837)),
    "tanh": ((85.62, 24.52, 5.944, 1.438), (4.29e4, 1431.0, 37.48, 1.043)),
    "leaky-0.1": ((192.5, 52.92, 8.062, 1.486), (8.25e4, 3912.0, 63.61, 1.151)),
    "leaky-0.5": ((9.751, 6.082, 3.727, 1.280), (2500.0, 105.2, 11.18, 0.844)),
    "leaky-0.8": ((2.951, 2.640, 2.268, 1.106), (204.2, 10.27, 2.902, 0.616)),
    "leaky-1.5": ((2.395, 1.716, 1.381, 0.796), (484.0, 17.2, 1.634, 0.336)),
    "leaky-2": ((3.672, 1.970, 1.292, 0.671), (1228.0, 41.4, 2.443, 0.282)),
}


def row(experiment: str, space: str, parameter: float, v: float, **values: float) -> dict:
    cell = {"experiment": experiment, "space": space, "parameter": parameter, "v": v}
    nothing = float("nan")  # as an empty cell is read back
    base = {"network": "exact", "seed": 0, "flags": nothing, "pixel_flags": nothing}
    names = ("fi", "fir", "pixel_fi", "pixel_fir", "relative", "scaled", "per_dimension")
    numbers = {name: values.get(name, 1.0) for name in names}
    errors = {f"{name}_stderr": values.get(f"{name}_stderr", 0.0) for name in names}
    return cell | base | numbers | errors


def activations(**more: float) -> pd.DataFrame:
    rows = []
    for space, (fi, fir) in EXACT.items():
        slope = float(space.partition("-")[2] or "nan")
        for k, v in enumerate(LEVELS):
            pixel = {"pixel_fi": PIXEL[0][k], "pixel_fir": PIXEL[1][k]}
            values = {"fi": fi[k], "fir": fir[k], **pixel, **more}
            rows.append(row("activation", space, slope, v, **values))
    return pd.DataFrame(rows)


def sweeps(bend: float) -> pd.DataFrame:
    """Return the three sweeps with deviations on straight lines, bent by `bend` in the middle."""
    rows = [
        row("scale", f"scale-{e}", e, 0.1, relative=e * (1 - bend * e)) for e in (0.1, 0.3, 0.5)
    ]
    for d in (2, 6, 10):
        line = (10 - d) / 8 - (bend if d == 6 else 0)
        values = {"relative": line, "scaled": line, "per_dimension": line}
        rows.append(row("dimension", f"plane-{d}", d, 0.1, **values))
    for k in (0.1, 0.2, 0.4):
        rows.append(row("cylinder", f"cylinder-{k}", k, 0.09, relative=k ** (1 + bend)))
    return pd.DataFrame(rows)


def verdicts(curves: pd.DataFrame) -> dict[str, str]:
    table = check_fisher_claims(load_claims(CLAIMS), curves)
    return dict(zip(table["id"], table["verdict"], strict=True))


def test_what_is_said_of_activations_is_judged_as_curves_and_pointwise() -> None:
    table = check_fisher_claims(load_claims(CLAIMS), activations()).set_index("id")
    found = table["verdict"]
    # ReLU's curve is the farthest; sigmoid's is farther at v = 0.1
    assert found["relu-deviates-most-fi"] == found["relu-deviates-most-fir"] == UNDECIDED
    assert "at every noise level: contradicted" in table.loc["relu-deviates-most-fi", "reason"]
    assert "as a curve: reproduced" in table.loc["relu-deviates-most-fi", "reason"]
    assert found["tanh-closer-than-relu"] == REPRODUCED
    assert found["gelu-closer-than-relu"] == REPRODUCED  # not at v = 1, which is no noise of theirs
    assert found["sigmoid-closer-than-relu"] == UNDECIDED
    assert found["smooth-closer-than-relu-fir"] == UNDECIDED
    assert found["leaky-below-one-approaches-data"] == REPRODUCED
    assert found["leaky-above-one-approaches-data"] == REPRODUCED  # curves cross at v = 0.01
    assert found["leaky-below-one-approaches-data-fir"] == REPRODUCED
    assert found["leaky-above-one-lowers-fi"] == CONTRADICTED  # at v = 0.001, without any estimate
    assert found["leaky-below-one-bounded"] == CONTRADICTED  # slope 0.5: 9.75 over 8.0
    assert found["deviation-linear-in-eps"] == NOT_TESTABLE


def test_both_readings_must_agree() -> None:
    worse = activations()
    worse.loc[worse["space"] == "tanh", "fi"] *= 1e4
    assert verdicts(worse)["tanh-closer-than-relu"] == CONTRADICTED
    once = activations()
    once.loc[(once["space"] == "tanh") & (once["v"] == 0.1), "fi"] = 9.0
    assert verdicts(once)["tanh-closer-than-relu"] == UNDECIDED  # farther at one noise level


def test_lines_are_told_from_curves() -> None:
    three = [f"deviation-linear-in-{what}" for what in ("eps", "dimension", "curvature")]
    assert [verdicts(sweeps(0.0))[name] for name in three] == [REPRODUCED] * 3
    assert [verdicts(sweeps(4.0))[name] for name in three] == [CONTRADICTED] * 3


def test_an_effect_below_what_a_score_resolves_judges_nothing() -> None:
    curves = sweeps(0.0)
    curves.loc[curves["experiment"] == "cylinder", "relative"] *= 1e-6
    learned = pd.concat([curves, sweeps(0.0).assign(network="edm")])
    table = check_fisher_claims(load_claims(CLAIMS), learned).set_index(["id", "network"])
    row = table.loc[("deviation-linear-in-curvature", "edm")]
    assert row["verdict"] == NOT_TESTABLE
    assert "4e-07 of F_D, too small for a learned score" in row["reason"]
    exact = table.loc[("deviation-linear-in-curvature", "exact"), "verdict"]
    assert exact == REPRODUCED


def test_statistics_by_hand() -> None:
    found = fisher_findings(pd.concat([activations(), sweeps(0.5)]))
    at = found.set_index(["statistic", "space", "v"])["value"]
    assert found["v"].max() < 1  # tiny-diffusion has no such noise
    assert at["fi_over_bound", "leaky-0.5", 0.001] == pytest.approx(
        math.log(9.751 / (1.998 / 0.25))
    )
    assert at["fi_over_bound", "leaky-2", 0.1] == pytest.approx(math.log(1.292 / 1.818))
    gap = abs(math.log(1.381 / 1.818)) - abs(math.log(1.292 / 1.818))
    assert at["fi_toward_one", "leaky-1.5", 0.1] == pytest.approx(gap)
    assert at["fi_toward_one", "leaky-0.5", 0.1] == pytest.approx(math.log(3.727 / 8.062))
    wholes = found.set_index(["statistic", "metric"])["value"]
    tanh, relu = (
        [abs(math.log(a / b)) for a, b in zip(EXACT[name][0][:3], PIXEL[0][:3], strict=True)]
        for name in ("tanh", "relu")
    )
    most = max(tanh) - max(relu)
    assert wholes["fi_beyond_relu_curve", "tanh, supremum"] == pytest.approx(most)
    means = [(x[0] + 2 * x[1] + x[2]) / 4 for x in (tanh, relu)]
    assert wholes["fi_beyond_relu_curve", "tanh, mean over log v"] == pytest.approx(
        means[0] - means[1]
    )
    x, y = (0.1, 0.3, 0.5), [e * (1 - 0.5 * e) for e in (0.1, 0.3, 0.5)]
    squared = stats.linregress(x, y).rvalue ** 2
    assert at["eps_straightness", "scale-0.1", 0.1] == pytest.approx(squared)
    assert wholes["eps_straightness_curve", "scale-0.1, mean"] == pytest.approx(squared)
    assert at["radius_exponent", "cylinder-0.4", 0.09] == pytest.approx(1.5)


def test_the_papers_own_estimator_is_judged_beside_ours() -> None:
    learned = activations().assign(network="tiny", flags="A and B differ")
    for side in ("", "pixel_"):
        learned[f"{side}fi_score"] = learned[f"{side}fi"]
        learned[f"{side}fi_score_stderr"] = 0.0
    table = check_fisher_claims(load_claims(CLAIMS), learned)
    tanh = table[table["id"] == "tanh-closer-than-relu"].set_index("network")["verdict"]
    assert tanh.to_dict() == {"tiny": NOT_TESTABLE, "tiny, as the paper estimates": REPRODUCED}


def test_an_estimate_carries_three_standard_errors() -> None:
    found = fisher_findings(activations(fi_stderr=0.1, pixel_fi_stderr=0.2))
    chosen = (found["statistic"] == "fi_over_bound") & (found["metric"] == "leaky-2, v = 0.1")
    cell = found[chosen].iloc[0]
    reach = 3 * math.hypot(0.1 / 1.292, 0.2 / 1.818)
    assert cell["high"] - cell["value"] == pytest.approx(reach)
    assert cell["value"] - cell["low"] == pytest.approx(reach)


@pytest.mark.parametrize("column", ["flags", "pixel_flags"])
def test_estimates_that_contradict_themselves_are_left_out(column: str) -> None:
    curves = activations().assign(**{column: "A and B differ"})  # of the latents, of the data
    assert fisher_findings(curves).empty
    assert set(verdicts(curves).values()) == {NOT_TESTABLE}


def test_a_line_through_two_parameters_is_not_judged_and_an_unseen_effect_is_named() -> None:
    curves = sweeps(0.0)
    curves.loc[curves["experiment"] == "cylinder", "relative"] *= 1e-6
    learned = sweeps(0.0).assign(network="edm")
    learned = learned[(learned["experiment"] != "cylinder") | (learned["parameter"] > 0.1)]
    table = check_fisher_claims(load_claims(CLAIMS), pd.concat([curves, learned]))
    row = table.set_index(["id", "network"]).loc[("deviation-linear-in-curvature", "edm")]
    assert row["verdict"] == NOT_TESTABLE
    assert "too small for a learned score" in row["reason"]


def test_a_share_ends_at_one() -> None:
    found = fisher_findings(sweeps(0.1).assign(relative_stderr=0.2))
    lines = found[found["statistic"] == "eps_straightness"]
    assert lines["value"].between(0.5, 1).all()
    assert (lines["high"].max(), lines["low"].min()) == (1.0, 0.0)


def test_every_network_is_judged_by_itself() -> None:
    learned = activations().assign(network="edm")
    learned.loc[learned["space"] == "tanh", "fi"] *= 1e4  # a network that got tanh wrong
    table = check_fisher_claims(load_claims(CLAIMS), pd.concat([activations(), learned]))
    tanh = table[table["id"] == "tanh-closer-than-relu"]
    assert list(zip(tanh["network"], tanh["verdict"], strict=True)) == [
        ("exact", REPRODUCED),
        ("edm", CONTRADICTED),
    ]
