"""Diffusion models that failed: no better than a control that learned nothing, or at chance.

What rests on most of them is not tested. A latent space whose Gaussian fit already decodes into
good images may fail this rule with a good model: it says that nothing beyond the fit is seen.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from diffusability.analysis.panels import Measured, Panel, scales
from diffusability.study.planning.tables import BEST

ERRORS = 2.0  # standard errors that a model must be better by
ACCURACY = "generation.class_accuracy_"
GAUSSIAN = "control.gaussian."
_MODEL = ["tokenizer", "tokenizer_seed", "backbone", "seed", "step"]
NO_SCALE = -1.0  # in a key, in the place of a guidance scale


def mark_failed(table: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return a table with the columns `failed` and `failed_reason`.

    A model's samples, of one step and guidance scale, failed if either holds:

    - their class accuracy is within its error of chance: not above 1/K + 2 s, with s the
      binomial standard error of chance, sqrt(1/K (1 - 1/K) / n);
    - they are no better than draws of the Gaussian that VIV assumes: the target is not below that
      control's by more than 2 standard errors of the difference. Only where the study asks for
      the control.

    Rows of a model that have no guidance scale are judged by its smallest. Rows of tokenizers,
    and of models that neither rule applies to, are not judged: `failed` is missing. The target is
    the Fréchet distance of generated images.
    """
    rows = table[(table["backbone"] != "") & table["value"].notna()]
    controls = table[table["metric"] == target.replace("generation.", GAUSSIAN, 1)]
    gaussian = {
        (row["tokenizer"], row["tokenizer_seed"]): row for row in controls.to_dict("records")
    }
    found: dict[tuple[Any, ...], list[str]] = {}
    for row in rows[rows["metric"].str.startswith(ACCURACY)].to_dict("records"):
        found.setdefault(_key(row), []).append(_at_chance(row))
    for row in rows[rows["metric"] == target].to_dict("records"):
        control = gaussian.get((row["tokenizer"], row["tokenizer_seed"]))
        if control is not None and pd.notna(control["value"]):
            found.setdefault(_key(row), []).append(_no_better(row, control))
    reasons = {key: "; ".join(filter(None, each)) for key, each in found.items()}
    for key in sorted(reasons, key=lambda key: -key[-1]):  # the smallest scale is kept
        reasons[(*key[:-1], NO_SCALE)] = reasons[key]
    said = [reasons.get(_key(row)) for row in table[[*_MODEL, "guidance"]].to_dict("records")]
    return table.assign(
        failed=pd.array([None if one is None else bool(one) for one in said], dtype="boolean"),
        failed_reason=[one or "" for one in said],
    )


def failed(table: Measured, panel: Panel, family: str) -> bool:
    """Return whether generation failed for most tokenizers of a panel and family."""
    marks = _marks(table, panel, family)
    return len(marks) > 0 and bool(marks.mean() > 0.5)


def failed_tokenizers(table: Measured, panel: Panel, family: str) -> list[str]:
    """Return the tokenizers of a panel and family for which most diffusion models failed."""
    marks = _marks(table, panel, family)
    return [str(name) for name in marks.index[marks]]


def failed_on(table: Measured, target: str) -> dict[str, list[str]]:
    """Return the backbones on which most diffusion models of a tokenizer failed, by tokenizer."""
    found: dict[str, list[str]] = {}
    for backbone in scales(table, target):
        for family in table.families:
            for name in failed_tokenizers(table, Panel(target, backbone, None), family):
                found.setdefault(name, []).append(backbone)
    return found


def _marks(table: Measured, panel: Panel, family: str) -> pd.Series:
    """Return whether most diffusion models failed, by tokenizer; empty where none is judged."""
    rows = table.rows.get(panel.target)
    if rows is None or not panel.backbone or "failed" not in rows:
        return pd.Series(dtype=bool)
    own = rows[(rows["backbone"] == panel.backbone) & (rows["family"] == family)]
    if panel.guidance not in (None, BEST):
        own = own[own["guidance"] == panel.guidance]
    return own["failed"].fillna(False).astype(bool).groupby(own["tokenizer"]).mean().gt(0.5)


def failed_sentence(table: pd.DataFrame) -> str:
    """Return one sentence that counts the sets of samples that failed, or empty if none did.

    Args:
        table: marked, with each backbone at the step that is meant.
    """
    judged = table[table["failed"].notna() & table["guidance"].notna()]
    models = judged.drop_duplicates([*_MODEL, "guidance"])
    bad = models[models["failed"].astype(bool)]
    if bad.empty:
        return ""
    first = bad.iloc[0]
    return (
        f"{len(bad)} of {len(models)} sets of samples failed: they are no better than draws of a "
        f"Gaussian fit, or their classes are at chance; for example {first['tokenizer']} with "
        f"{first['backbone']}: {first['failed_reason']}"
    )


def _key(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    model = (-1 if pd.isna(row[name]) else row[name] for name in _MODEL)
    return (*model, NO_SCALE if pd.isna(row["guidance"]) else float(row["guidance"]))


def _at_chance(row: Mapping[Any, Any]) -> str:
    """Return the reason why a class accuracy is that of chance, or empty."""
    chance = 1 / json.loads(row["options"])["classes"]
    error = math.sqrt(chance * (1 - chance) / row["n"])
    if row["value"] > chance + ERRORS * error:
        return ""
    return (
        f"class accuracy {row['value']:.3g} is within {ERRORS:g} standard errors "
        f"({ERRORS * error:.2g}) of chance ({chance:.3g})"
    )


def _no_better(row: Mapping[Any, Any], control: Mapping[Any, Any]) -> str:
    """Return the reason why a distance is no better than the control's, or empty."""
    squares = [row["stderr"], control["stderr"]]
    error = math.sqrt(sum(s**2 for s in squares if pd.notna(s)))
    if row["value"] < control["value"] - ERRORS * error:
        return ""
    name = row["metric"].removeprefix("generation.")
    return (
        f"{name} {row['value']:.4g} is not below that of the Gaussian control "
        f"({control['value']:.4g}) by more than {ERRORS:g} standard errors ({ERRORS * error:.2g})"
    )
