"""Every figure shows the numbers of the tables, says what it cannot show, and never changes."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from diffusability.analysis.answer import answer
from diffusability.analysis.catalogue import (
    HEADLINE,
    PERSPECTIVES,
    REPRESENTATIVES,
    SHOWN,
    TRAJECTORY,
    name_metric,
)
from diffusability.analysis.correlation import correlate
from diffusability.analysis.frames import read_table, table_frame, write_table
from diffusability.analysis.noise_floor import noise_floor
from diffusability.analysis.panels import Measured, best_guidance, cells
from diffusability.analysis.regression import regress
from diffusability.errors import StudyError
from diffusability.figures.pairs import bubble_diameters
from diffusability.figures.results import (
    Results,
    Scope,
    backbone_scopes,
    read_results,
    reference_scope,
)
from diffusability.figures.scheme import SKETCHES
from diffusability.figures.style import HALF, PAGE, PHONE, write_figure
from diffusability.figures.trajectories import length_ratios, representatives
from diffusability.report.figures import drawing_reason
from diffusability.study.core.workflow_files import CAPTIONS
from diffusability.study.planning.figures import FIGURES, figure_named
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.tables import BEST, TABLES, table_named
from diffusability.study.planning.targets import table_files
from diffusability.study.reading.load import load_study
from scripts import draw
from tests.conftest import REPOSITORY
from tests.unit.figure_tables import TARGET, figure_table, made_tables, results_of

BACKBONES = ("sit-b", "lightningdit-b")
FAMILIES = ("conv-f16d32", "trans-f16d32")
MINUS = "\N{MINUS SIGN}"
SHORT = {metric: short for short, metric in (SHOWN | TRAJECTORY).items()}


@pytest.fixture(scope="module")
def study() -> Results:
    """Return eleven tokenizers of two families, two backbones, three scales and seeds."""
    more = {"backbones": BACKBONES, "families": FAMILIES, "scales": (1.0, 1.5, 2.0)}
    return results_of(figure_table(11, **more, seeds=2, retrained=2, targets=True))


class Drawn(dict[str, Figure]):
    """The figures of a study, each drawn when it is first asked for."""

    def __init__(self, study: Results) -> None:
        super().__init__()
        self.study = study

    def __missing__(self, name: str) -> Figure:
        self[name] = draw_figure(name, self.study)
        return self[name]


@pytest.fixture(scope="module")
def drawn(study: Results) -> Drawn:
    """Return the figures of that study."""
    return Drawn(study)


def draw_figure(name: str, study: Results) -> Figure:
    """Draw a figure from the tables that its declaration names, and no other."""
    figure = FIGURES[name]
    tables = {name: study.tables[name] for name in figure.reads if name in study.tables}
    return figure.function()(replace(study, tables=tables))


@pytest.mark.parametrize("name", ["pairs", "perspectives", "trajectories", "guidance"])
def test_a_figure_pairs_metrics_in_one_index(
    study: Results, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An index per panel took two thirds of the time."""
    made, init = [], Measured.__init__

    def counted(self: Measured, table: pd.DataFrame) -> None:
        made.append(table)
        init(self, table)

    monkeypatch.setattr(Measured, "__init__", counted)
    draw_figure(name, study)
    assert len(made) <= 1


def points(axis) -> np.ndarray:
    """Return the points with error bars of a panel, sorted."""
    return np.array(sorted(tuple(p) for c in axis.containers for p in c[0].get_xydata()))


def expected(study: Results, metric: str, scope: Scope) -> np.ndarray:
    """Return the points that a panel should show, sorted."""
    found = cells(study.measurements, metric, scope.target, scope.backbone, scope.guidance)
    return np.array(sorted(found.of_family(scope.family).rows[["x", "y"]].to_numpy().tolist()))


def shown(value: float) -> str:
    """Return a number as figures write it."""
    return f"{value:.2f}".replace("-", MINUS)


def texts(figure: Figure) -> str:
    """Return every sentence of a figure on one line."""
    parts = [t.get_text() for t in figure.texts]
    for axis in figure.axes:
        parts += [axis.get_title(), axis.get_xlabel(), axis.get_ylabel()]
        parts += [t.get_text() for t in axis.texts]
    return " ".join(" ".join(parts).split())


def check_relations(study: Results, axes, scopes, metrics) -> None:
    """Compare panels, row by row, with cells and turned correlations."""
    wanted = [(scope, metric) for scope in scopes for metric in metrics]
    assert len(axes) >= len(wanted)
    for axis, (scope, pattern) in zip(axes, wanted, strict=False):
        name = study.measured(pattern)
        assert axis.get_xlabel().split()[0] == SHORT[pattern].split()[0]
        np.testing.assert_allclose(points(axis), expected(study, name, scope), rtol=1e-12)
        where = {"backbone": scope.backbone, "guidance": scope.guidance, "family": scope.family}
        where |= {"target": scope.target, "metric": name}
        row = study.statistic("correlations", "pearson", **where)
        sign = row["expected_sign"]
        low, high = sorted((sign * row["low"], sign * row["high"]))
        title = axis.get_title()
        assert f"r = {shown(sign * row['value'])}" in title
        assert f"[{shown(low)}, {shown(high)}]" in title


def test_every_figure_is_listed_and_has_a_caption() -> None:
    captions = {p.stem for p in (CAPTIONS / "figures").glob("*.rst")}
    assert set(FIGURES) == captions
    for name, figure in FIGURES.items():
        assert callable(figure.function()), name
        assert set(figure.reads) <= set(TABLES), name


def test_every_table_is_made_by_code_that_exists_and_has_a_caption() -> None:
    captions = {p.stem for p in (CAPTIONS / "tables").glob("*.rst")}
    assert set(TABLES) == captions
    made: set[str] = set()
    for name, table in TABLES.items():
        assert callable(table.function()), name
        assert set(table.made_from) <= made, name  # declared after what it is made from
        made.add(name)
    with pytest.raises(StudyError, match="did you mean `claims`"):
        table_named("claim")


def test_representatives_are_the_headline_of_the_analysis() -> None:
    assert list(REPRESENTATIVES.values()) == list(HEADLINE)
    assert len(PERSPECTIVES) == 8


def test_an_unknown_figure_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(StudyError, match="did you mean `pairs`"):
        figure_named("pair")


def test_fisher_curves_are_those_of_the_reference_family_and_backbone(study, drawn) -> None:
    panels = np.array(drawn["fisher_curves"].axes).reshape(2, 4)  # rows without a curve are gone
    scope = reference_scope(study, study.target)
    own = study.measurements[study.measurements["family"] == scope.family]
    for axis, metric in (
        (panels[0, 1], "fisher.curve_fir"),
        (panels[1, 1], "fisher.curve_learned_fir"),
    ):
        lines = {tuple(line.get_ydata()) for line in axis.lines}
        rows = own[own["metric"].str.startswith(f"{metric}_v")]
        if "learned" in metric:
            rows = rows[rows["backbone"] == scope.backbone]
        keys = ["tokenizer", "tokenizer_seed"]  # every training counts the same
        wide = rows.pivot_table(index=keys, columns="metric", values="value")
        wide = wide.groupby(level="tokenizer").mean()
        np.testing.assert_allclose(sorted(lines), sorted(map(tuple, wide.to_numpy())), rtol=1e-12)
        assert axis.get_xscale() == "log"
    said = " ".join(panels[1, 0].texts[0].get_text().split())
    assert said == "this curve was not measured in this study"


def test_perspectives_are_ranked_by_their_strongest_metric_which_is_marked(study, drawn) -> None:
    scope = reference_scope(study, TARGET)
    assert scope == Scope(TARGET, "sit-b", 1.0, "conv-f16d32")
    where = {"target": TARGET, "backbone": "sit-b", "guidance": 1.0, "family": FAMILIES[0]}
    size = {
        short: abs(study.row("correlations", **where, metric=study.measured(of))["pearson"])
        for short, of in SHOWN.items()
    }
    best = {title: max(size[short] for short in own) for title, own in PERSPECTIVES.items()}
    titles = sorted(PERSPECTIVES, key=best.__getitem__, reverse=True)
    order = [
        (f"{rank}. {title}", short)
        for rank, title in enumerate(titles, start=1)
        for short in sorted(PERSPECTIVES[title], key=size.__getitem__, reverse=True)
    ]
    axes = drawn["perspectives"].axes
    check_relations(study, axes, [scope], [SHOWN[short] for _, short in order])
    assert len(axes) == len(SHOWN)
    heads = [(text, text.get_text()) for axis in axes for text in axis.texts]
    bold = {text for artist, text in heads if artist.get_fontweight() == "bold"}
    assert bold == {f"{rank}. {title}" for rank, title in enumerate(titles, start=1)}
    for axis, (head, short) in zip(axes, order, strict=True):
        assert head in [text.get_text() for text in axis.texts]
        own = PERSPECTIVES[head.partition(". ")[2]]
        marked = axis.get_facecolor() != (1.0, 1.0, 1.0, 1.0)
        assert marked == (size[short] == max(size[other] for other in own))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("generalization", TARGET),
        ("inception_score", "generation.inception_score_judge"),
        ("fdr6", "generation.fdr6"),
    ],
)
def test_every_backbone_and_family_is_shown_row_by_row(study, drawn, name, target) -> None:
    scopes = [
        scope.at(family=family) for family in FAMILIES for scope in backbone_scopes(study, target)
    ]
    assert [s.backbone for s in scopes] == [*BACKBONES, *BACKBONES]
    if name == "generalization":
        scopes = scopes[1:]  # the figure of perspectives shows the first
    check_relations(study, drawn[name].axes, scopes, REPRESENTATIVES.values())
    assert len(drawn[name].axes) == len(scopes) * len(REPRESENTATIVES)


def test_trajectories_show_every_backbone(study, drawn) -> None:
    scopes = list(backbone_scopes(study, TARGET))
    check_relations(study, drawn["trajectories"].axes, scopes, TRAJECTORY.values())


def test_best_guidance_marks_the_best_scale_of_each(study, drawn) -> None:
    scopes = [scope.at(guidance=BEST) for scope in backbone_scopes(study, TARGET)]
    axes = drawn["best_guidance"].axes
    check_relations(study, axes, scopes, REPRESENTATIVES.values())
    for axis in axes[:: len(REPRESENTATIVES)]:
        dots = np.concatenate(
            [line.get_xydata() for line in axis.lines if line.get_marker() == "."]
        )
        for best in points(axis):
            column = dots[np.isclose(dots[:, 0], best[0]), 1]
            assert np.isclose(column.min(), best[1])  # lower is better


def test_pairs_have_bubbles_that_grow_with_the_distance(study, drawn) -> None:
    scope = reference_scope(study, TARGET)
    axis = drawn["pairs"].axes[0]
    where = (TARGET, scope.backbone, scope.guidance)
    rows = study.tables["regressions"]
    own = rows[(rows["target"] == TARGET) & (rows["backbone"] == "sit-b")]
    own = own[(own["guidance"] == 1.0) & (own["family"] == FAMILIES[0])]
    shown_names = [study.measured(of) for of in REPRESENTATIVES.values()]
    own = own[own["metric_1"].isin(shown_names) & own["metric_2"].isin(shown_names)]
    names = tuple(own.sort_values("q2").iloc[-1][["metric_1", "metric_2"]])
    assert len(drawn["pairs"].axes) == 6 < len(own)
    parts = [cells(study.measurements, name, *where).of_family(scope.family) for name in names]
    first, second = (part.rows for part in parts)
    y = np.sort(first["y"].to_numpy())
    areas = bubble_diameters(y, y.min(), y.max()) ** 2
    np.testing.assert_allclose(np.diff(areas) / np.diff(y), np.ptp(areas) / np.ptp(y))
    bubbles = [c for c in axis.collections if isinstance(c, PathCollection)]
    there = np.concatenate([c.get_offsets() for c in bubbles])
    want = np.column_stack([first["x"], second["x"]])
    np.testing.assert_allclose(there[np.argsort(there[:, 0])], want[np.argsort(want[:, 0])])
    where = {"target": TARGET, "backbone": "sit-b", "guidance": 1.0, "family": FAMILIES[0]}
    row = study.row("regressions", **where, metric_1=names[0], metric_2=names[1])
    assert f"Q² = {shown(row['q2'])} range [{shown(row['q2_low'])}" in axis.get_title()


def test_intercorrelations_are_oriented_and_name_each_pair_once(study, drawn) -> None:
    axis = drawn["intercorrelations"].axes[0]
    cells_ = [text.get_text() for text in axis.texts]
    names = [study.measured(pattern) for pattern in REPRESENTATIVES.values()]
    assert len(cells_) == len(names) * (len(names) - 1) / 2
    first = {"metric": names[0], "target": names[1], "family": FAMILIES[0]}
    row = study.row("intercorrelations", **first)
    assert cells_[0] == f"{-row['pearson']:.2f}"  # lower VIV and higher LNC are better


def test_guidance_curves_are_the_means_with_the_best_marked(study, drawn) -> None:
    table, axis = study.measurements, drawn["guidance"].axes[0]
    lines = {line.get_label(): line for line in axis.lines}
    best, _ = best_guidance(table, TARGET, "sit-b")
    marked = {tuple(line.get_xydata()[0]) for line in axis.lines if len(line.get_xydata()) == 1}
    for index, guidance in enumerate((1.0, 1.5, 2.0)):
        rows = cells(table, TARGET, TARGET, "sit-b", guidance).of_family(FAMILIES[0]).rows
        for row in rows.to_dict("records"):
            assert lines[row["tokenizer"]].get_xydata()[index] == pytest.approx(
                (guidance, row["y"])
            )
            assert ((guidance, row["y"]) in marked) == (best[row["tokenizer"]] == guidance)
    assert len(drawn["guidance"].axes) == len(FAMILIES) * len(BACKBONES)


def test_probe_reconstruction_and_noise_floor_show_every_number(study, drawn) -> None:
    table = study.measurements
    rows = cells(table, "semantics.lnc5", "semantics.probe", "", None).of_family(FAMILIES[0]).rows
    np.testing.assert_allclose(
        points(drawn["neighbours_probe"].axes[0]), sorted(rows[["x", "y"]].to_numpy().tolist())
    )
    rows = cells(table, "reconstruction.psnr", "reconstruction.psnr", "", None).rows
    axis = drawn["reconstruction"].axes[0]
    np.testing.assert_allclose(sorted(points(axis)[:, 1]), sorted(rows["y"]))
    assert [label.get_text().split("\n")[0] for label in axis.get_xticklabels()] == list(FAMILIES)
    axis = drawn["noise_floor"].axes[0]
    runs = cells(table, TARGET, TARGET, "sit-b", 1.0).of_family(FAMILIES[0]).runs
    dots = [line for line in axis.lines if line.get_marker() != "None"]
    values = np.concatenate([line.get_ydata() for line in dots])
    np.testing.assert_allclose(sorted(values), sorted(runs["y"]))
    hollow = sum(len(d.get_ydata()) for d in dots if d.get_markerfacecolor() == "none")
    assert hollow == int((runs["tokenizer_seed"] > 0).sum()) > 0
    assert "reliability 0.90" in axis.get_title()


def test_correlations_are_turned_to_the_declared_direction(study, drawn) -> None:
    marks = {line.get_label(): line for line in drawn["all_metrics"].axes[0].lines}
    few = {line.get_label(): line for line in drawn["correlations"].axes[0].lines}
    names = [label.get_text() for label in drawn["correlations"].axes[0].get_yticklabels()]
    assert names[0] == "velocity ambiguity\n(VIV)"
    for short, pattern in SHOWN.items():
        for guidance, words in ((1.0, "smallest"), (BEST, "best")):
            where = {
                "target": TARGET,
                "backbone": "sit-b",
                "guidance": guidance,
                "family": FAMILIES[0],
            }
            row = study.row("correlations", **where, metric=study.measured(pattern))
            x = marks[f"{short}, {words} guidance"].get_xdata()
            assert x == pytest.approx(row["pearson"] * row["expected_sign"])
            if short in REPRESENTATIVES:
                assert few[f"{short}, {words} guidance"].get_xdata() == x
    assert len(few) < len(marks)


@pytest.mark.parametrize("name", ["correlations", "all_metrics"])
def test_panels_of_correlations_are_wrapped(study, drawn, name) -> None:
    axes = drawn[name].axes
    assert [axis.get_title().partition(",")[0] for axis in axes] == [
        f"{backbone}\n{family}" for family in FAMILIES for backbone in BACKBONES
    ]
    places = [axis.get_position() for axis in axes]
    assert len({place.y0 for place in places}) == (2 if name == "correlations" else 1)


def test_the_lowest_panel_of_every_column_is_labelled() -> None:
    table = figure_table(9, families=("a", "b", "c"))
    axes = draw_figure("correlations", results_of(table)).axes
    assert len(axes) == 3  # in two columns
    assert [" ".join(axis.get_xlabel().split()) for axis in axes] == [
        "",
        *["r (positive: in the expected direction)"] * 2,
    ]


def test_no_figure_is_wider_than_a_page(drawn, tmp_path: Path) -> None:
    def written(name: str) -> float:
        """Return the width of a file in inches, with all that stands beside the panels."""
        write_figure(drawn[name], [tmp_path / "a.svg"])
        width = ElementTree.parse(tmp_path / "a.svg").getroot().attrib["width"]
        return float(width.removesuffix("pt")) / 72

    limits = dict.fromkeys(FIGURES, PAGE)
    for name in ("correlations", "strongest"):  # side by side
        limits |= {name: HALF, f"{name}_narrow": PHONE}
    margins = 0.2
    for name, limit in limits.items():
        assert written(name) <= limit + margins + 0.01, name


def test_a_phone_shows_what_a_page_shows(drawn) -> None:
    page, phone = drawn["correlations"].axes, drawn["correlations_narrow"].axes
    assert [axis.get_title() for axis in page] == [axis.get_title() for axis in phone]
    assert len({axis.get_position().x0 for axis in phone}) == 1  # one under the other
    page, phone = drawn["strongest"].axes, drawn["strongest_narrow"].axes
    np.testing.assert_array_equal(points(page[0]), points(phone[0]))


def test_every_perspective_has_a_sketch(drawn) -> None:
    assert set(SKETCHES) == set(PERSPECTIVES)
    assert [axis.get_title() for axis in drawn["scheme"].axes] == list(PERSPECTIVES)
    empty = len(Figure().add_subplot().get_children())
    assert all(len(axis.get_children()) > empty for axis in drawn["scheme"].axes)


def test_the_strongest_metric_is_that_of_the_answer(study, drawn) -> None:
    (axis,) = drawn["strongest"].axes
    found = answer(study.last, study.target)
    assert found.strongest is not None
    scope = reference_scope(study, TARGET).at(backbone=found.strongest.row["backbone"])
    shown_points = expected(study, found.strongest.row["metric"], scope)
    np.testing.assert_allclose(points(axis), shown_points, rtol=1e-12)
    assert found.strongest.interval in axis.get_title()
    named = " ".join(text.get_text() for text in axis.texts)
    assert f"{found.best} (best" in named
    assert f"{found.worst} (worst" in named


def test_chance_and_ceiling_are_drawn_where_a_metric_states_them() -> None:
    table = figure_table(6)
    own = table["metric"] == "semantics.lnc5"
    levels = {"chance": 0.08, "ceiling": 50.0}  # the ceiling is too far to be shown
    table.loc[own, "options"] = json.dumps(levels)
    axes = draw_figure("perspectives", results_of(table)).axes
    (lnc,) = [axis for axis in axes if axis.get_xlabel().startswith("LNC")]
    (line,) = [line for line in lnc.lines if line.get_label() == "chance"]
    assert set(line.get_xdata()) == {0.08}
    assert lnc.get_xlim()[0] < 0.08 < lnc.get_xlim()[1]
    lines = [line.get_label() for axis in axes if axis is not lnc for line in axis.lines]
    assert not {"chance", "ceiling"} & set(lines)


def test_a_figure_without_data_says_so_in_its_file(study, drawn, tmp_path: Path) -> None:
    small = results_of(figure_table(3), {})
    write_figure(draw_figure("generalization", small), [tmp_path / "empty.svg"])
    assert drawing_reason((tmp_path / "empty.svg").read_bytes()) == SENTENCES["generalization"]
    write_figure(drawn["generalization"], [tmp_path / "full.svg"])
    assert drawing_reason((tmp_path / "full.svg").read_bytes()) == ""


def test_length_ratio_shows_the_three_that_stand_for_all(study, drawn) -> None:
    scope = reference_scope(study, TARGET)
    chosen = representatives(study, scope)
    y = cells(study.measurements, TARGET, TARGET, "sit-b", 1.0).of_family(scope.family).rows
    order = y.sort_values("y")["tokenizer"].tolist()
    assert chosen == {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    found = length_ratios(study, scope)
    own = found[found["tokenizer"] == chosen["worst"]]
    axes = drawn["length_ratio"].axes
    panels = len(FAMILIES) * len(BACKBONES)
    assert len(axes) == 2 * panels
    line = next(line for line in axes[0].lines if line.get_label() == chosen["worst"])
    np.testing.assert_allclose(line.get_xydata(), own[["time", "value"]])
    np.testing.assert_allclose(line.get_xdata(), (np.arange(10) + 0.5) / 10)
    overlaid = axes[panels].lines
    assert {line.get_label() for line in overlaid} == set(chosen.values())
    variance = next(line for line in overlaid if line.get_label() == chosen["worst"])
    assert variance.get_linestyle() == "--"
    np.testing.assert_allclose(variance.get_xdata(), np.arange(11) / 10)


SENTENCES = {
    "strongest": "correlations were not measured in this study",
    "generalization": "one backbone and one family: there is nothing to compare them with",
    "strongest_narrow": "correlations were not measured in this study",
    "correlations_narrow": "no correlation can be computed here",
    "all_metrics": "no correlation can be computed here",
    "scheme": "Latent neighbour consistency",
    "best_guidance": "every backbone was sampled at one guidance scale: there is no best",
    "guidance": "every backbone was sampled at one guidance scale: no curve",
    "perspectives": "no r: the tables have none for this panel",
    "pairs": "no Q²: the tables have none for this panel",
    "correlations": "no correlation can be computed here",
    "intercorrelations": "two metrics of different perspectives were not measured together",
    "length_ratio": "the tables have no length ratio for sit-b, guidance 1, conv-f16d32",
    "neighbours_probe": "the linear probe (semantics.probe) was not measured in this study",
    "reconstruction": "Reconstruction quality of the tokenizers",
    "trajectories": "straightness (trajectory.straightness) was not measured in this study",
    "noise_floor": "the tables have no noise floor for this panel",
    "inception_score": "was not measured in this study",
    "fdr6": "FDr6 (generation.fdr6) was not measured in this study",
    "fisher_curves": "this curve was not measured in this study",
    "fisher_encoders": "Fisher curves of `pixels` and of `gpe` and of `vae` were not measured",
    "fisher_levels": "Fisher curves of `pixels` and of `level` were not measured",
    "distortion": "distortion was not measured in this study",
    "spectra": "power spectra were not measured in this study",
    "training_steps": "every backbone was measured at its last step only (train.snapshots)",
}


def test_what_a_small_study_lacks_is_said() -> None:
    gone = ("velocity.viv", "semantics.probe", "trajectory.straightness")
    small = results_of(figure_table(3, without=gone), {})
    assert set(SENTENCES) == set(FIGURES)
    for name, sentence in SENTENCES.items():
        assert sentence in texts(draw_figure(name, small)), name
    axes = draw_figure("reconstruction", small).axes
    assert len(axes) == 3  # of LPIPS, which was not measured, there is no empty panel


def test_a_study_without_generated_images_is_said() -> None:
    table = figure_table(4)
    bare = results_of(table[table["backbone"] == ""].reset_index(drop=True), {})
    for name in set(FIGURES) - {"scheme", "reconstruction"}:
        assert re.search("(was|were) not measured|linear probe", texts(draw_figure(name, bare))), (
            name
        )


def test_a_backbone_with_one_scale_is_said_beside_one_with_several() -> None:
    table = figure_table(4, backbones=BACKBONES, scales=(1.0, 2.0))
    once = (table["backbone"] == "sit-b") & (table["guidance"] == 2.0)
    results = results_of(table[~once].reset_index(drop=True))
    assert "sampled at 1 guidance scale only: there is no best" in texts(
        draw_figure("best_guidance", results)
    )
    assert "sampled at 1 guidance scale (1): there is no curve" in texts(
        draw_figure("guidance", results)
    )


def test_the_reasons_of_the_analysis_stand_in_the_panels() -> None:
    table = figure_table(3, without=("spatial.srss",))
    flat = table["metric"] == "semantics.lnc5"
    table.loc[flat, "value"] = 0.1
    lost = (table["metric"] == "smoothness.sec25") & (table["tokenizer"] == "tokenizer-2")
    table.loc[lost, "value"] = np.nan
    keep = table["metric"].str.match(r"generation|velocity.viv|semantics.lnc5|smoothness")
    table = table[keep].reset_index(drop=True)
    options = SimpleNamespace(confidence=0.95)
    tables = {"correlations": correlate(table, options), "regressions": regress(table)}
    results = results_of(table, tables | {"noise_floor": noise_floor(table)})
    said = texts(draw_figure("perspectives", results))
    assert "no r: the metric is constant" in said
    assert "no r: the tables have none for this panel" in said
    assert "no interval: 3 tokenizers in 3 clusters" in said
    assert "SRSS" not in said  # was not measured: no empty panel
    assert len(draw_figure("perspectives", results).axes) == 3
    correlations = draw_figure("correlations", results)
    assert "no r" in texts(correlations)
    rows = [label.get_text() for label in correlations.axes[0].get_yticklabels()]
    assert [row.partition("(")[2] for row in rows] == ["VIV)", "LNC)", "SEC)"]
    assert "no repeated seeds" in texts(draw_figure("noise_floor", results))
    assert "no Q²: the tables have none" in texts(draw_figure("pairs", results))


def test_drawing_twice_gives_the_same_bytes(study, tmp_path: Path) -> None:
    for kind in ("svg", "pdf", "png"):
        digests = set()
        for turn in range(2):
            path = tmp_path / f"{turn}.{kind}"
            write_figure(draw_figure("neighbours_probe", study), [path])
            digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
        assert len(digests) == 1, kind


def write_tables(folder: Path, plan: Plan) -> Results:
    """Write tables as if `plan` had run, and return what they hold."""
    table = figure_table(len(plan.study.tokenizers), seeds=1)
    table["study"] = plan.study.name
    names = dict(zip(dict.fromkeys(table["tokenizer"]), plan.study.tokenizers, strict=True))
    table["tokenizer"] = table["tokenizer"].map(names)
    prints = [artifact.fingerprint for artifact in plan.measured]
    table["fingerprint"] = [prints[k % len(prints)] for k in range(len(table))]
    made = {"measurements": table, **made_tables(table)}
    for path in map(Path, table_files(plan.study)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_table(folder / path, made.get(path.stem, table_frame(path.stem, [])))
    return results_of(table)


def test_the_script_needs_nothing_but_the_tables(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    study_file = str(REPOSITORY / "studies" / "smoke.yaml")
    plan = Plan(load_study([study_file]))
    arguments = ["--study", study_file, "--output", "reconstruction.svg", "reconstruction.png"]
    assert draw.main(arguments) != 0
    assert "snakemake -c2 tables" in capsys.readouterr().err
    held = write_tables(tmp_path, plan)
    assert draw.main(arguments) == 0
    assert Path("reconstruction.png").stat().st_size > 1000
    results = read_results(plan)
    assert results.numbers == {name: k for k, name in enumerate(plan.study.tokenizers, start=1)}
    pd.testing.assert_frame_equal(results.measurements, held.measurements)
    path = Path(table_files(plan.study)[0])
    path.write_text(path.read_text().replace(plan.measured[0].fingerprint, "0" * 12))
    assert draw.main(arguments) != 0
    assert "not those of the study as it is now" in capsys.readouterr().err


def test_tables_read_back_keep_empty_cells_apart(tmp_path: Path) -> None:
    path = tmp_path / "correlations.csv"
    made = made_tables(figure_table(4, scales=(1.0, 2.0)))["correlations"]
    write_table(path, made)
    again = read_table(path)
    pd.testing.assert_frame_equal(again, made, rtol=1e-5)
    assert set(again["note"]) == {""}
    assert set(again["guidance"]) == {1.0, 2.0, BEST}
    assert again["spearman"].isna().all()


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("generation.fid", "FID"),
        ("generation.sfid", "sFID"),
        ("reconstruction.fid", "reconstruction FID"),
        ("generation.fd_judge", "Fréchet distance (judge)"),
    ],
)
def test_only_inceptions_distance_is_called_fid(metric: str, words: str) -> None:
    assert name_metric(metric) == words
