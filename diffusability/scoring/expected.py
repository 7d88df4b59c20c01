"""What a finished study expects diffusion models to make of a scored latent space, or why not."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffusability.analysis.catalogue import SHOWN, name_metric
from diffusability.analysis.measurements import read_measurements
from diffusability.analysis.panels import Measured, Panel
from diffusability.analysis.prediction import (
    SHOWN_LEVEL,
    Forecast,
    Points,
    points_of,
    predictable_panels,
)
from diffusability.artifacts.card import read_card
from diffusability.errors import DiffusabilityError, MeasurementError
from diffusability.scoring.comparable import difference, of_table
from diffusability.scoring.table import Score, score_name, tokenizer_of
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import path_template

Shape = tuple[int, ...]
_NOTHING = "the table has no generated images; that of a finished study with diffusion models has"


@dataclass(frozen=True)
class Space:
    """How a latent space was measured.

    Attributes:
        dataset: fingerprint of its images. shape: (C, h, w) of a latent; empty: not known.
        options: of each metric group, as they are fingerprinted.
        family: architecture and latent size; empty: not known.
    """

    dataset: str
    shape: Shape
    options: Mapping[str, Mapping[str, Any]]
    family: str = ""


@dataclass(frozen=True)
class Expected:
    """What is expected of one latent space in one panel, or the reason why nothing is.

    Attributes:
        latents: name of the space. target, backbone, step, guidance, family: of the panel.
        value, low, high: expected target with its interval; None: no number.
        metrics: of the fit. spearman, error_factor: of left-out clusters. n: tokenizers.
        note: why there is no number, or what else a reader must know.
    """

    latents: str
    target: str
    backbone: str
    step: int | None
    guidance: float | None
    family: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    metrics: str = ""
    spearman: float | None = None
    error_factor: float | None = None
    n: int = 0
    note: str = ""

    @property
    def sentence(self) -> str:
        """The expectation in words."""
        steps = "" if self.step is None else f" after {self.step:,} steps"
        scale = "" if self.guidance is None else f", guidance {self.guidance:g}"
        what = f"{name_metric(self.target)} of {self.backbone}{steps}{scale}"
        if self.value is None:
            source = f" from {self.family}" if self.family else ""
            return f"{self.latents}: no prediction of {what}{source}: {self.note}"
        return (
            f"{self.latents}: expected {what}: {self.value:.4g} ({SHOWN_LEVEL} interval "
            f"{self.low:.4g} to {self.high:.4g}), from {self.metrics} of {self.n} tokenizers "
            f"{self.family}; clusters that are left out are missed by a factor of "
            f"{self.error_factor:.2f}, Spearman {self.spearman:.2f}"
            f"{'. ' if self.note else ''}{self.note}"
        )


def spaces_of(plan: Plan, folder: Path) -> dict[str, Space]:
    """Return how each tokenizer of a score was measured, by the name of its score."""
    found = {}
    seeds = {artifact.labels["tokenizer_seed"] for artifact in plan.of_stage("latents")}
    for latents in plan.of_stage("latents"):
        key = score_name(latents.labels["tokenizer"], latents.labels["tokenizer_seed"], seeds)
        own = [a for a in plan.measured if a.upstream.get("latents") is latents]
        options = {artifact.stage: artifact.spec for artifact in own}
        dataset = latents.upstream["dataset"].fingerprint
        family = plan.study.tokenizers[latents.labels["tokenizer"]].family
        found[key] = Space(dataset, _shape(folder / latents.path), options, family)
    return found


def _shape(latents: Path) -> Shape:
    """Return (C, h, w) of an artifact of latents, empty where it is not there."""
    with suppress(OSError, ValueError, KeyError):
        found = json.loads((latents / "latents.json").read_text(encoding="utf-8"))
        return tuple(int(side) for side in found["shape"])
    return ()


@dataclass
class FinishedStudy:
    """The measurements of a finished study, and its results, which say how they were made.

    Attributes:
        table: of measurements of the tokenizers that it compares.
        root: folder that holds `results/`.
        left_out: why each of the others does not reconstruct like them.
    """

    table: pd.DataFrame
    root: Path
    left_out: Mapping[str, str] = field(default_factory=dict)
    _forecasts: dict[Any, Forecast] = field(default_factory=dict)

    def forecast(self, panel: Panel, family: str, points: Points) -> Forecast:
        """Return the fit to points of a panel and a family, made once for all scored spaces."""
        key = (panel, family, points.metrics, points.tokenizers)
        if key not in self._forecasts:
            self._forecasts[key] = Forecast(points)
        return self._forecasts[key]

    def difference(self, family: str, m: Mapping[str, Any]) -> str:
        """Return why a measurement is not one of those of a family, or nothing."""
        rows = self.table[(self.table["family"] == family) & (self.table["metric"] == m["metric"])]
        texts = rows[["options", "flags"]].fillna("").drop_duplicates()
        found = [difference(m, of_table(*map(str, row))) for row in texts.to_numpy()]
        return next(filter(None, found), "")

    def space(self, family: str) -> Space | None:
        """Return how the tokenizers of a family were measured; None: the results are gone."""
        own = self.table[(self.table["family"] == family) & self.table["value"].notna()]
        own = own[(own["backbone"] == "") & own["metric"].str.contains(".", regex=False)]
        dataset, shape = "", tuple[int, ...]()
        options: dict[str, Mapping[str, Any]] = {}
        for row in own.drop_duplicates(["tokenizer", "fingerprint"]).itertuples():
            stage = str(row.metric).partition(".")[0]
            if stage in options:
                continue
            labels = {"tokenizer": row.tokenizer, "tokenizer_seed": row.tokenizer_seed}
            with suppress(DiffusabilityError, KeyError):
                path = path_template(stage).format(**labels, fingerprint=row.fingerprint)
                card = read_card(self.root / path)
                options[stage] = card["spec"]
                dataset = card["upstream"]["dataset"]["fingerprint"]
                shape = shape or _shape(self.root / card["upstream"]["latents"]["path"])
        return Space(dataset, shape, options, family) if dataset and shape else None


def images_of(table: str) -> str:
    """Return the fingerprint of the images of a finished study; empty: it is not known.

    Args:
        table: its measurements.csv, or the folder that holds it.
    """
    study = _finished(table)
    if isinstance(study, str):
        return ""
    spaces = map(study.space, Measured.of(study.table).families)
    return next((space.dataset for space in spaces if space), "")


def _finished(table: str) -> FinishedStudy | str:
    """Return the study of a table, or why there is none."""
    path = Path(table) / "measurements.csv" if Path(table).is_dir() else Path(table)
    if not path.is_file():
        return _NOTHING
    try:
        measured = read_measurements(path)
    except MeasurementError as error:
        return str(error)
    above = path.absolute().parents  # of results/tables/<study>/measurements.csv
    out = _left_out(path.with_name("tokenizers.csv"))
    compared = measured[~measured["tokenizer"].isin(list(out))]
    return FinishedStudy(compared, above[min(3, len(above) - 1)], out)


def _left_out(table: Path) -> dict[str, str]:
    """Return the tokenizers that a study compares with no other, and why, by its table of them."""
    if not table.is_file():
        return {}
    judged = pd.read_csv(table, dtype={"tokenizer": str}, keep_default_na=False)
    out = judged[judged["comparable"].astype(str) == "False"]
    return dict(zip(out["tokenizer"], out["reason"], strict=True))


def expected(
    scores: Sequence[Score], spaces: Mapping[str, Space], table: str
) -> tuple[list[Expected], str]:
    """Return what a finished study expects of scored latent spaces.

    Args:
        scores: of the spaces. spaces: how they were measured, by the names of the scores.
        table: the study's measurements.csv, or the folder that holds it.

    Returns:
        One item per space, target and backbone, and per family of like latent spaces unless its
        own is among those of the study; or none, and the reason.
    """
    study = _finished(table)
    if isinstance(study, str):
        return [], f"no prediction: {study}"
    panels = predictable_panels(study.table)
    if not panels:
        return [], f"no prediction: {_NOTHING}"
    found = [
        item
        for score in scores
        if score.name in spaces
        for panel in panels
        for item in _expected(score, spaces[score.name], study, panel)
    ]
    return found, ""


def _expected(score: Score, space: Space, study: FinishedStudy, panel: Panel) -> list[Expected]:
    steps = study.table.loc[study.table["backbone"] == panel.backbone, "step"].dropna()
    guidance = panel.guidance if isinstance(panel.guidance, float) else None
    empty = Expected(
        score.name,
        panel.target,
        panel.backbone,
        int(steps.max()) if len(steps) else None,
        guidance,
    )
    if out := study.left_out.get(tokenizer_of(score.name)):
        return [replace(empty, note=f"the study compares it with no other: {out}")]
    families = Measured.of(study.table).families
    reasons: dict[str, None] = {}
    found = []
    for family in [space.family] if space.family in families else families:
        known = study.space(family)
        reason = _foreign(space, known)
        if known is None or reason:
            reasons[reason] = None
        else:
            of_family = replace(empty, family=family)
            found.append(_of_family(score, space, known, study, panel, of_family))
    return found or [replace(empty, note="; ".join(reasons))]


def _foreign(space: Space, known: Space | None) -> str:
    """Return why a fit to known latent spaces says nothing about another, or nothing."""
    if known is None:
        return "the results of the study are not beside its table, so its images are unknown"
    if space.dataset != known.dataset:
        return (
            "its images are not known to be those of the study, read with the same options; score "
            "it as a tokenizer of the study's file, with --study"
        )
    if space.shape != known.shape:
        sides = [" x ".join(map(str, shape)) for shape in (space.shape, known.shape)]
        return f"its latents are {sides[0]}, those of the study {sides[1]}"
    return ""


def _of_family(
    score: Score,
    space: Space,
    known: Space,
    study: FinishedStudy,
    panel: Panel,
    empty: Expected,
) -> Expected:
    """Return the prediction from the tokenizers of the family of `empty`, or why there is none."""
    family = empty.family
    measured = {str(m["metric"]): m for m in score.measurements}
    points = points_of(study.table, panel, family)
    if points.lack:
        return replace(empty, note=f"the study cannot predict: {points.lack}")
    usable = []
    for name in points.metrics:
        stage = name.partition(".")[0]
        alike = space.options.get(stage) == known.options.get(stage)
        if name in measured and alike and not study.difference(family, measured[name]):
            usable.append(name)
    if points.metrics and not usable:
        return replace(
            empty,
            note="no headline metric was measured as in the study; score it as a tokenizer of the "
            "study's file, with --study",
        )
    points = points_of(study.table, panel, family, usable)
    tokenizer = tokenizer_of(score.name)
    own, truth = np.array([name == tokenizer for name in points.tokenizers]), ""
    if own.any():  # what is to be predicted must not be in the fit, nor must its like
        truth = f"Its own cluster is not in the fit; measured is {np.exp(points.y[own][0]):.4g}"
        points = points.of(points.clusters != points.clusters[own][0])
    if points.lack:
        return replace(empty, note=f"the study cannot predict: {points.lack}")
    fit = study.forecast(panel, family, points)
    if fit.lack:
        return replace(empty, note=f"the study cannot predict: {fit.lack}")
    x = np.array([float(measured[name]["value"]) for name in points.metrics])
    if fit.outside(x):
        return replace(
            empty,
            note=f"its {_shorts(fit.metrics)} lie outside the study's range: their leverage "
            "exceeds that of every left-out cluster",
        )
    value, low, high = fit.predict(x)
    return replace(
        empty,
        value=value,
        low=low,
        high=high,
        metrics=_shorts(fit.metrics),
        spearman=fit.spearman,
        error_factor=float(np.exp(fit.error)),
        n=len(points.y),
        note=truth,
    )


def _shorts(metrics: Sequence[str]) -> str:
    """Return the short names of metrics."""
    shorts = [
        next((short for short, pattern in SHOWN.items() if fnmatchcase(name, pattern)), name)
        for name in metrics
    ]
    return " and ".join(shorts)
