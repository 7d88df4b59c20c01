"""The toy study: known values of every distribution, learned curves, the plan and the table."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from diffusability.errors import ArtifactError, MeasurementError, StudyError, TrainingInterrupted
from diffusability.fisher.gaussian import standard_normal
from diffusability.fisher.toy_curves import exact_curve, learned_curve
from diffusability.fisher.toy_networks import ToyLoss, toy_network
from diffusability.fisher.toy_oracles import activation_oracle, cylinder_oracle, toy_oracle
from diffusability.fisher.toy_table import _compare
from diffusability.study.fisher_toy import (
    EXACT,
    FisherToyPlan,
    Panel,
    ToyDistribution,
    load_fisher_toy,
    step_variances,
)
from diffusability.training.loop import train
from diffusability.training.run import Phase, Run
from tests.oracles.distributions import from_oracle

STUDY = Path(__file__).parents[2] / "studies" / "fisher_toy.yaml"
VARIANCES = (0.001, 0.01, 0.1, 1.0)
# FI and FIR of the plane at those variances, to the digits that were stated before this code
TABLE = {
    ("relu", None): ((874.7, 79.96, 8.862, 1.524), (9.08e5, 8220, 74.36, 1.207)),
    ("gelu", None): ((311.4, 56.55, 8.771, 1.525), (2.24e5, 4532, 68.51, 1.216)),
    ("sigmoid", None): ((69.51, 42.07, 13.97, 1.917), (1.00e4, 1296, 97.9, 1.837)),
    ("tanh", None): ((85.62, 24.52, 5.944, 1.438), (4.29e4, 1431, 37.48, 1.043)),
    ("leaky", 0.1): ((192.5, 52.92, 8.062, 1.486), (8.25e4, 3912, 63.61, 1.151)),
    ("leaky", 0.5): ((9.751, 6.082, 3.727, 1.280), (2500, 105.2, 11.18, 0.844)),
    ("leaky", 0.8): ((2.951, 2.640, 2.268, 1.106), (204.2, 10.27, 2.902, 0.616)),
    ("leaky", 1.5): ((2.395, 1.716, 1.381, 0.796), (484, 17.2, 1.634, 0.336)),
    ("leaky", 2.0): ((3.672, 1.970, 1.292, 0.671), (1228, 41.4, 2.443, 0.282)),
}
RATES = {"relu": 0.971, "gelu": 0.931, "tanh": 1.19, "sigmoid": 0.186}  # at v = 0.1


@pytest.fixture(scope="module")
def plan() -> FisherToyPlan:
    return FisherToyPlan(load_fisher_toy(STUDY))


class TestActivations:
    @pytest.mark.parametrize(("function", "slope"), TABLE)
    def test_known_values(self, function: str, slope: float | None) -> None:
        # the smallest level costs most; two of them represent all
        skip = 0 if function in ("relu", "tanh") else 1
        oracle = activation_oracle(function, slope)
        for v, fi, fir in list(zip(VARIANCES, *TABLE[function, slope], strict=True))[skip:]:
            at = oracle.information(v)
            assert 2 * at.fi == pytest.approx(fi, rel=1e-2)
            assert 2 * at.fir == pytest.approx(fir, rel=1e-2)

    @pytest.mark.parametrize("function", RATES)
    def test_a_larger_rate_of_information_goes_with_a_smaller_one_of_error(
        self, function: str
    ) -> None:
        at, data = activation_oracle(function).information(0.1), standard_normal(1).information(0.1)
        assert 2 * at.mmse_rate == pytest.approx(RATES[function], rel=1e-2)
        assert at.fir > data.fir
        assert at.mmse_rate < data.mmse_rate

    @pytest.mark.parametrize(
        ("function", "slope", "fi", "fir"),
        [("relu", None, -1, -2), ("leaky", 0.5, -1 / 2, -3 / 2), ("gelu", None, -3 / 4, -7 / 4)],
    )
    def test_exponents_at_small_noise(
        self, function: str, slope: float | None, fi: float, fir: float
    ) -> None:
        oracle = activation_oracle(function, slope)
        low, high = oracle.information(0.001), oracle.information(0.002)
        # without the jump, FI of the two smooth halves stays finite: 1/2 and 1/2 a^-2
        base = (1 + slope**-2) / 2 if slope else 0.0
        rise = math.log((low.fi - base) / (high.fi - base)) / math.log(0.5)
        assert rise == pytest.approx(fi, abs=0.12)
        assert math.log(low.fir / high.fir) / math.log(0.5) == pytest.approx(fir, abs=0.06)

    def test_exceptions_to_the_papers_bounds_are_real(self) -> None:
        # a > 1 is said to lower FI, and a < 1 to raise it to J / a^2 at most
        data = standard_normal(1)
        assert activation_oracle("leaky", 2.0).information(0.005).fi > data.information(0.005).fi
        assert activation_oracle("leaky", 2.0).information(0.02).fi < data.information(0.02).fi
        assert (
            activation_oracle("leaky", 0.5).information(0.001).fi > 4 * data.information(0.001).fi
        )


class TestCylinder:
    # FIR of the cylinder minus that of the flat sheet, at 1/R = 0.05, 0.1, 0.2, 0.4
    @pytest.mark.parametrize(
        ("v", "falls"),
        [
            (0.01, (-0.00477, -0.0190, -0.0747, -0.278)),
            (0.1, (-0.00324, -0.01295, -0.0515, -0.1997)),
            (0.5, (-0.00074, -0.0030, -0.0121, -0.0516)),
        ],
    )
    def test_known_values_and_a_quadratic_law(self, v: float, falls: tuple[float, ...]) -> None:
        flat = standard_normal(2).information(v).fir + 1 / v**2
        seen = []
        for inverse, fall in zip((0.05, 0.1, 0.2, 0.4), falls, strict=True):
            seen.append(cylinder_oracle(1 / inverse).information(v).fir - flat)
            assert seen[-1] == pytest.approx(fall, rel=1e-2)
        for small, large in ((0, 1), (1, 2)):
            assert 1.9 < math.log2(seen[large] / seen[small]) < 2.05


class TestLearned:
    @pytest.mark.release
    def test_edm_finds_the_exact_curve(self, plan: FisherToyPlan, tmp_path: Path) -> None:
        """An EDM network on the ReLU toy, trained for a fifth of the study's steps."""
        spec = plan.study.networks["edm"]
        spec = spec.model_copy(
            update={"train": spec.train.model_copy(update={"steps": 1000, "ema": 0.99})}
        )
        oracle = toy_oracle(ToyDistribution(kind="activation", function="relu"))
        points = oracle.sample(spec.points, torch.Generator().manual_seed(0)).float()
        model = toy_network(spec, points, 0)
        run = Run(
            name="toy",
            spec=spec.train,
            modules={"network": model},
            phases=[Phase("loss", list(model.parameters()), ToyLoss(model, points))],
            images=len(points),
            seed=0,
            state=tmp_path,
            averaged="network",
        )
        model.load_state_dict(train(run).averaged.state_dict())
        model.double().eval().requires_grad_(False)
        v = (0.01, 0.1, 1.0)
        exact = exact_curve(oracle, v)
        seen = learned_curve(model.denoiser(), oracle, v, samples=6000, seed=1)
        assert seen["fi"].tolist() == pytest.approx(exact["fi"].tolist(), rel=0.05)
        assert seen["fir"].tolist() == pytest.approx(exact["fir"].tolist(), rel=0.1)
        assert (seen["fi_stderr"] > 0).all()
        assert set(seen) == set(exact)

    def test_an_exact_score_has_no_flag_whatever_was_drawn(self) -> None:
        for oracle in (standard_normal(2), toy_oracle(ToyDistribution(kind="normal", eps=0.5))):
            for seed in range(10):
                seen = learned_curve(
                    from_oracle(oracle), oracle, (0.0015, 0.05, 0.66), samples=1000, seed=seed
                )
                assert set(seen["flags"]) == {""}

    @pytest.mark.parametrize("name", ["tiny", "edm"])
    def test_interrupted_training_goes_on_to_the_same_bits(
        self, plan: FisherToyPlan, tmp_path: Path, name: str
    ) -> None:
        spec = plan.study.networks[name]
        spec = spec.model_copy(update={"train": spec.train.model_copy(update={"steps": 3})})
        points = standard_normal(2).sample(512, torch.Generator().manual_seed(0)).float()

        def run(state: str, minutes: float | None) -> Run:
            model = toy_network(spec, points, seed=1)
            phases = [Phase("loss", list(model.parameters()), ToyLoss(model, points))]
            return Run(
                name=state,
                spec=spec.train,
                modules={"network": model},
                phases=phases,
                images=len(points),
                seed=0,
                state=tmp_path / state,
                averaged="network",
                minutes=minutes,
            )

        for _ in range(2):
            with pytest.raises(TrainingInterrupted):
                train(run("parts", minutes=0.0))
        resumed, whole = train(run("parts", None)).averaged, train(run("whole", None)).averaged
        for key, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key]), key

    def test_tiny_knows_its_own_levels_only(self, plan: FisherToyPlan) -> None:
        points = torch.zeros(10, 2)
        model = toy_network(plan.study.networks["tiny"], points, 0).double()
        y = torch.zeros(3, 2, dtype=torch.float64)
        schedule = step_variances()
        assert schedule[0] == pytest.approx(1.0001e-4, rel=1e-5)
        assert schedule[-1] == pytest.approx(0.6585, abs=5e-5)
        for v in schedule:
            assert bool(model.denoiser()(y, v).isfinite().all())
        with pytest.raises(MeasurementError, match="not one of the 50 steps"):
            model.denoiser()(y, 0.5)

    def test_weights_are_those_of_the_seed(self, plan: FisherToyPlan) -> None:
        spec, points = plan.study.networks["edm"], torch.randn(100, 2)
        a, b, c = (toy_network(spec, points, seed).network.first.weight for seed in (0, 0, 1))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


class TestPlan:
    def test_every_panel_has_its_curves(self, plan: FisherToyPlan) -> None:
        paths = {artifact.path for artifact in plan}
        for panel in plan.panels:
            for network in (EXACT, *panel.networks):
                for space in (panel.space, panel.pixel):
                    assert plan.curve(space, network, 0).path in paths
        # the flat plane is data of one experiment and a latent space of another, made once
        assert len(paths) == len({a.name for a in plan})

    def test_exact_curves_do_not_depend_on_networks_or_seeds(self, plan: FisherToyPlan) -> None:
        networks = {
            name: network.model_copy(update={"width": 7})
            for name, network in plan.study.networks.items()
        }
        other = FisherToyPlan(plan.study.model_copy(update={"networks": networks, "seeds": (0, 1)}))
        before, after = ({a.path for a in p if "/exact/" in a.path} for p in (plan, other))
        assert before == after
        assert not {a.path for a in plan if "/edm/" in a.path} & {a.path for a in other}
        assert other.fingerprint != plan.fingerprint

    def test_what_a_curve_is_compared_with_names_the_table(self, plan: FisherToyPlan) -> None:
        dims = plan.study.dimension.model_copy(update={"ambient": 6})
        assert 6 in dims.dims  # so the curves are the same
        other = FisherToyPlan(plan.study.model_copy(update={"dimension": dims}))
        assert {a.path for a in other} == {a.path for a in plan}
        assert other.fingerprint != plan.fingerprint

    def test_curves_are_found_by_their_wildcards(self, plan: FisherToyPlan) -> None:
        for artifact in plan:
            labels = {**artifact.labels, "fingerprint": artifact.fingerprint}
            assert plan.find("fisher_toy", labels) is artifact
        with pytest.raises(StudyError, match="not an artifact of study"):
            plan.find("fisher_toy", {**labels, "fingerprint": "0" * 12})

    def test_wrong_studies_are_refused(self, tmp_path: Path) -> None:
        text = STUDY.read_text()
        path = tmp_path / "toy.yaml"
        path.write_text(text.replace("networks: [tiny, edm]", "networks: [tiny, edn]"))
        with pytest.raises(StudyError, match="activation.networks: no network `edn`.*edm"):
            load_fisher_toy(path)
        path.write_text(text.replace("samples: 4000", "sample: 4000"))
        with pytest.raises(StudyError, match=r"sample: Extra inputs") as error:
            load_fisher_toy(path)
        assert "samples: Field required" in str(error.value)
        study = yaml.safe_load(text)
        study["cylinder"]["inverse_radii"] = [1 / 3]
        path.write_text(yaml.safe_dump(study))
        with pytest.raises(StudyError, match="inverse_radii: 0.333.* more than six digits"):
            load_fisher_toy(path)
        study["cylinder"].update(inverse_radii=[0.25], learned=[0.5])
        path.write_text(yaml.safe_dump(study))
        with pytest.raises(StudyError, match="cylinder.learned: 0.5 is not among cylinder.inv"):
            load_fisher_toy(path)


def curve_rows(levels: list[float], fir: float, dim: int) -> pd.DataFrame:
    """Return a made-up curve."""
    rows = [
        {"v": v, "dim": dim, "fi": 2.0, "fi_stderr": 0.1, "fir": fir / v**2, "fir_stderr": 0.01}
        for v in levels
    ]
    return pd.DataFrame(rows).assign(flags="")


class TestTable:
    panel = Panel("activation", "relu", "plane", None, ("mlp",))

    def test_a_row_by_hand(self) -> None:
        latent, pixel = curve_rows([0.5, 2.0], 3.0, 2), curve_rows([0.5, 2.0], 5.0, 4)
        table = _compare(self.panel, "mlp", 1, latent, pixel).set_index("v")
        row = table.loc[0.5]
        assert (row["space"], row["pixel"], row["network"], row["seed"]) == (
            *("relu", "plane", "mlp"),
            1,
        )
        assert (row["fir"], row["pixel_fir"]) == (3 / 0.25, 5 / 0.25)
        assert (row["dim"], row["pixel_dim"]) == (2, 4)
        assert row["relative"] == pytest.approx(2 / 5)
        assert row["scaled"] == pytest.approx(2 / 4)
        assert row["per_dimension"] == pytest.approx(abs(5 / 4 - 3 / 2) / (5 / 4))
        # what the normal directions of a plane add: 4 - 2 and 2 - 2
        assert row["intrinsic"] == pytest.approx(abs(3 - (5 - 2)) / (5 - 2))
        assert table["relative_stderr"].gt(0).all()

    def test_no_noise_level_is_lost_without_a_word(self) -> None:
        latent, pixel = curve_rows([0.5, 2.0], 3.0, 2), curve_rows([0.5], 5.0, 4)
        with pytest.raises(ArtifactError, match="relu and plane .* different noise levels"):
            _compare(self.panel, "mlp", 1, latent, pixel)
