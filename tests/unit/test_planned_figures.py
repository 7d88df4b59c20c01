"""A planned figure shows data of its study: what a study does not measure is not drawn."""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diffusability.analysis.analyse import analyse
from diffusability.analysis.frames import table_frame
from diffusability.analysis.measurements import check_measurements, target_metric
from diffusability.figures.results import Results
from diffusability.figures.style import empty_reason
from diffusability.study.entries.roles import role_of
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.planning.figures import FIGURES
from diffusability.study.planning.targets import figure_names, table_names
from diffusability.study.reading.load import read_yaml
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.study import Study
from tests.conftest import REPOSITORY

CURVES = ("fi_unconditional_zscored", "fir_unconditional_zscored", "fi", "fir")
OF_MODELS = ("trajectory.straightness", "trajectory.efficiency", "trajectory.angle")


def study_of(name: str, **changes: Any) -> Study:
    """Return a study of the repository, of at most three tokenizers per family.

    Of earlier snapshots the first is kept. The changes are merged into sections of the file.
    """
    folder = REPOSITORY if name == "config" else REPOSITORY / "studies"
    data = deepcopy(read_yaml(folder / f"{name}.yaml"))
    for section, values in changes.items():
        data[section] = data.get(section, {}) | values
    for backbone in data.get("backbones", {}).values():
        if snapshots := backbone["train"].get("snapshots"):
            backbone["train"]["snapshots"] = snapshots[:1]
    whole = resolve_study(data, name)
    families: dict[str, list[str]] = {}
    for tokenizer in whole.selected_tokenizers:
        families.setdefault(whole.tokenizers[tokenizer].family, []).append(tokenizer)
    chosen = [n for own in families.values() for n in own[:3]]
    select = {k: v for k, v in data["select"].items() if k != "repeats"}
    return resolve_study(data | {"select": select | {"tokenizers": chosen}}, name)


def rows_of(study: Study) -> Iterator[dict[str, Any]]:
    """Yield made-up numbers of everything that the study measures."""
    rng = np.random.default_rng(0)
    base = {"study": study.name, "dataset": study.select.dataset, "tokenizer_seed": 0, "n": 100}
    base |= {"unit": "1", "flags": "", "fingerprint": "0", "stderr": 0.01, "seed": ""}
    base |= {"backbone": "", "step": "", "guidance": "", "options": "{}"}

    def number(metric: str, **more: Any) -> dict[str, Any]:
        own = {"metric": metric, "value": rng.uniform(0.1, 1.0), "higher_is_better": True}
        return {**base, **identity, **own, **more}

    for name in study.selected_tokenizers:
        entry = study.tokenizers[name]
        identity = {"tokenizer": name, "family": entry.family, "cluster": entry.cluster}
        for group in study.selected_metrics:
            if group in study.left_out(name):
                continue
            shown = METRIC_GROUPS[group].shows.values()
            for metric in {m.replace("*", "judge") for m in shown if "learned" not in m}:
                yield number(metric)
            match group:
                case "semantics":
                    yield number("semantics.probe")
                case "reconstruction":
                    yield number("reconstruction.psnr")
                case "fisher" | "distortion":
                    curves = CURVES if group == "fisher" else ("fir_curvature", "fir_dimension")
                    curves += () if group == "fisher" else ("fir_tangential",)
                    for curve in curves:
                        for v in (0.1, 1.0):
                            level = json.dumps({"v": v, "dim": 4, "total": 1.0})
                            yield number(f"{group}.curve_{curve}_v{v:g}", options=level)
        for backbone in study.selected_backbones:
            spec = study.backbones[backbone]
            for step in (*spec.train.snapshots, spec.train.steps):
                for guidance in study.sampling.scales(backbone):
                    run = {"backbone": backbone, "seed": 0, "step": step, "guidance": guidance}
                    yield number(target_metric(study), **run, higher_is_better=False)
                    if study.encoders[study.generation.extractor].kind == "supervised":
                        yield number("generation.inception_score_judge", **run)
                    if study.generation.fdr6:
                        yield number("generation.fdr6", **run)
                    if spec.process == "flow" and study.sampling.shift == 1:
                        yield from (number(metric, **run) for metric in OF_MODELS)


def profiles_of(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Return two steps of every trajectory of the study."""
    rows = table[table["metric"] == OF_MODELS[0]].to_dict("records")
    halves = ({"segment": k, "time": 0.25 + k / 2, "value": 1.0} for k in range(2))
    return table_frame("profiles", [row | half for half in halves for row in rows])


def spectra_of(study: Study) -> pd.DataFrame:
    """Return the spectra of the study, as the group `geometry` measures them."""
    rows = []
    for name in study.selected_tokenizers if "geometry" in study.selected_metrics else ():
        entry = study.tokenizers[name]
        order = "line" if role_of(entry.family, entry.cluster) in ("gpe", "vae") else "grid"
        own = {"tokenizer": name, "family": entry.family, "cluster": entry.cluster}
        own |= {"tokenizer_seed": 0, "order": order, "permuted": 0, "stderr": 0.1}
        rows += [own | {"frequency": f, "power": 1.0 + f} for f in (0.1, 0.2, 0.3)]
    return table_frame("spectra", rows)


@cache
def results_of(name: str) -> Results:
    """Return the tables of a study, those that are derived by the analysis itself."""
    study = study_of(name)
    table = check_measurements(pd.DataFrame(rows_of(study)))
    collected = {"measurements": table, "spectra": spectra_of(study)}
    collected["profiles"] = profiles_of(study, table)
    read = {name for figure in figure_names(study) for name in FIGURES[figure].reads}
    names = [n for n in table_names(study) if n in read and n not in collected]
    numbers = {name: k for k, name in enumerate(study.tokenizers, start=1)}
    tables = {**collected, **analyse(collected, names=names)}
    return Results(tables, numbers, target_metric(study))


@pytest.mark.parametrize(
    "name",
    ["config", pytest.param("fashion", marks=pytest.mark.release), "smoke", "fisher_contrast"],
)
def test_no_planned_figure_is_empty(name: str) -> None:
    planned, results = figure_names(study_of(name)), results_of(name)
    empty = {n: empty_reason(FIGURES[n].function()(results)) for n in planned}
    assert {n: reason for n, reason in empty.items() if reason} == {}


def test_what_is_not_planned_would_be_empty() -> None:
    study, results = study_of("smoke"), results_of("smoke")
    left_out = set(FIGURES) - set(figure_names(study))
    drawable = {"neighbours_probe"}  # two points are drawn, but show no relation
    for name in left_out - drawable:
        assert empty_reason(FIGURES[name].function()(results)), name


def changed(name: str = "smoke", **sections: Any) -> set[str]:
    """Return the figures that a change of a study's file adds and removes."""
    before, after = figure_names(study_of(name)), figure_names(study_of(name, **sections))
    return set(before) ^ set(after)


def test_a_figure_is_planned_where_its_study_measures_it() -> None:
    sweep = {"sampling": {"guidance": [1.0, 2.0]}}
    assert changed(**sweep) == {"best_guidance", "guidance"}
    backbones = read_yaml(REPOSITORY / "studies" / "smoke.yaml")["backbones"]
    one = {"backbones": {"sit-a": backbones["sit-a"]}}
    snapshots = deepcopy(backbones)
    snapshots["sit-a"]["train"]["snapshots"] = [10]
    assert changed(backbones=snapshots) == {"training_steps"}
    assert changed(select={"backbones": list(one["backbones"])}) == {"generalization"}
    assert changed(sampling={"shift": 0.5}) == {"trajectories", "length_ratio"}
    judge = {"kind": "contrastive", "width": 8, "features": 16, "factor": 2}
    judge |= {"seed": 1, "train": {"steps": 60, "lr": 2.0e-3}}
    assert changed(encoders={"judge": judge}) == {"inception_score"}
    assert changed(metrics={"fisher": None}) == {"fisher_curves"}
    shown = [n for n, group in METRIC_GROUPS.items() if group.shows]
    assert changed(metrics=dict.fromkeys(shown)) == {
        *("perspectives", "generalization", "pairs", "inception_score", "fisher_curves")
    }
    assert changed("fisher_contrast", select={"metrics": ["fisher", "geometry"]}) == {
        *("reconstruction", "distortion")
    }
