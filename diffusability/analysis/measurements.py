"""The measurements of a study as one table: collected from its artifacts, read, checked."""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from diffusability.analysis.failed import mark_failed
from diffusability.analysis.frames import read_table, table_frame, typed
from diffusability.analysis.learned_deviation import learned_deviations
from diffusability.analysis.panels import CONTROL, GENERATION
from diffusability.artifacts.card import verified
from diffusability.artifacts.result_card import made_for
from diffusability.errors import ArtifactError, MeasurementError
from diffusability.study.core.commands import snakemake_command
from diffusability.study.core.names import distance_name
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.targets import table_file, table_names
from diffusability.study.study import Study

# columns that identify a measurement
KEY = ("tokenizer", "tokenizer_seed", "backbone", "seed", "step", "guidance", "metric")


def tabulate(plan: Plan) -> pd.DataFrame:
    """Return the measurements of all artifacts of a plan, in planning order.

    If the study has a pixel-space tokenizer, the deviations of learned Fisher curves from its
    curves are appended.

    Raises:
        ArtifactError: a measurement is missing, altered, or not of this plan.
    """
    rows = [row for artifact in plan.measured for row in _rows(plan, artifact)]
    reference = plan.study.fisher_reference
    if reference is not None:
        rows += learned_deviations(rows, *reference)
    return mark_failed(table_frame("measurements", rows), target_metric(plan.study))


def _rows(plan: Plan, artifact: Artifact) -> list[dict[str, object]]:
    """Return the rows of one artifact; those of a control are rows of its tokenizer.

    The metrics of a control are `control.<name>.<metric>` instead of `generation.<metric>`.
    """
    path = Path(artifact.path)
    verified(path, artifact.stage, artifact.fingerprint)
    measurements = json.loads((path / "measurements.json").read_text())
    own = artifact.labels
    control = control_of(artifact)
    if control is not None:
        own = {name: own[name] for name in ("tokenizer", "tokenizer_seed")}
        measurements = [
            m | {"metric": m["metric"].replace(GENERATION, f"{CONTROL}{control}.", 1)}
            for m in measurements
            if m["metric"].startswith(GENERATION)
        ]
    name = artifact.labels["tokenizer"]
    tokenizer = plan.study.tokenizers[name]
    labels = ("tokenizer", "tokenizer_seed", "backbone", "seed", "guidance")
    identity: dict[str, object] = {
        **{"study": plan.study.name, "dataset": plan.study.select.dataset},
        **{label: own.get(label, "") for label in labels},
        "step": None if control else step_of(plan, artifact),
        **{"family": tokenizer.family, "cluster": tokenizer.cluster},
        "encoder": plan.study.aligned_with(name),
        "fingerprint": artifact.fingerprint,
    }
    return [
        {
            **identity,
            **measurement,
            "flags": "; ".join(measurement["flags"]),
            "options": json.dumps(measurement["options"], sort_keys=True),
        }
        for measurement in measurements
    ]


def control_of(artifact: Artifact) -> str | None:
    """Return which control samples are of, or measurements of them; None for all others."""
    samples = artifact.upstream.get("samples", artifact)
    found: str | None = samples.spec.get("control")
    return found


def step_of(plan: Plan, artifact: Artifact) -> int | None:
    """Return the training step of an artifact's diffusion model; None if it has no model."""
    if "backbone" not in artifact.labels:
        return None
    samples = artifact.upstream.get("samples", artifact)
    last = plan.study.backbones[artifact.labels["backbone"]].train.steps
    return int(samples.spec.get("step", last))


def target_metric(study: Study) -> str:
    """Return the name of the generated images' Fréchet distance, which names its extractor.

    Empty in a study without diffusion models.
    """
    if not study.has_models:
        return ""
    return f"generation.{distance_name('fd', study.generation.extractor)}"


def read_tables(plan: Plan, names: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    """Return tables of a study by name, as written; measurements are always included.

    By default all that the study has.

    Raises:
        ArtifactError: a table is missing, or contains measurements of another state of the study.
        MeasurementError: a file is not the table with its name.
    """
    chosen = table_names(plan.study) if names is None else names
    paths = {name: Path(table_file(plan.study, name)) for name in ("measurements", *chosen)}
    for path in paths.values():
        if not path.exists():
            raise ArtifactError(
                f"{path}: does not exist yet. Make it with: {snakemake_command('-c2', 'tables')}"
            )
    measurements = read_measurements(paths["measurements"])
    if set(measurements["fingerprint"]) != {artifact.fingerprint for artifact in plan.measured}:
        path = paths["measurements"]
        raise ArtifactError(
            f"{path}: its measurements are not those of the study as it is now. "
            f"Make it again with: {snakemake_command('-c2', '-f', str(path))}"
        )
    for path in paths.values():
        if made_for(path) not in (None, plan.fingerprint):
            raise ArtifactError(
                f"{path}: was made for another state of the study, or for another study of this "
                f"name. Make it again with: {snakemake_command('-c2', '-R', 'tabulate')}"
            )
    others = {name: read_table(path) for name, path in paths.items() if name != "measurements"}
    return {"measurements": measurements, **others}


def read_measurements(path: str | PathLike[str]) -> pd.DataFrame:
    """Read the measurements of one study from CSV and check them (``check_measurements``).

    Raises:
        MeasurementError: the file is missing or not the table of one study.
    """
    return check_measurements(read_table(path, "measurements"), str(path))


def check_measurements(frame: pd.DataFrame, source: str = "table") -> pd.DataFrame:
    """Return the typed measurements of one study, after checks.

    Args:
        frame: one row per number; additional columns are kept. Empty text or NaN in ``seed``,
            ``step``, ``guidance``, ``stderr`` and ``higher_is_better`` means "does not apply", in
            ``value`` a missing cell.
        source: name of the table in messages.

    Raises:
        MeasurementError: missing columns, no rows, a cell of the wrong type, several studies or
            datasets, a cell given twice (with one fingerprint or with two), a tokenizer in two
            families, clusters or encoders, a metric measured in two units or with two directions.
    """
    table = typed(frame, "measurements", source)
    if table.empty:
        raise MeasurementError(f"{source}: the table holds no measurement; run the study first")
    if table["tokenizer_seed"].isna().any():
        raise MeasurementError(f"{source}: a row has no tokenizer_seed; every tokenizer has one")
    if np.isinf(table["value"]).any():
        raise MeasurementError(f"{source}: a value is infinite; remove or repeat the measurement")
    _check_one_study(table, source)
    _check_cells(table, source)
    return table


def _check_one_study(table: pd.DataFrame, source: str) -> None:
    """Refuse tables with incomparable rows."""
    for column in ("study", "dataset"):
        names = sorted(table[column].unique())
        if len(names) > 1:
            raise MeasurementError(
                f"{source}: {len(names)} different values of {column} ({', '.join(names)}); "
                "analyse one at a time, or compare two: diffusability compare A.yaml B.yaml"
            )
    measured = table[
        table["value"].notna()
    ]  # a cell that is not applicable has neither unit nor direction
    for key, columns, rows in (
        ("tokenizer", ("family", "cluster", "encoder"), table),
        ("metric", ("unit", "higher_is_better"), measured),
    ):
        for column in columns:
            kinds = rows.groupby(key, sort=False)[column].nunique(dropna=False)
            if (kinds > 1).any():
                name = kinds.index[kinds > 1][0]
                raise MeasurementError(
                    f"{source}: {key} {name} has {kinds[name]} different values of {column}"
                )


def _check_cells(table: pd.DataFrame, source: str) -> None:
    """Refuse duplicate cells."""
    repeated = table.duplicated(list(KEY), keep=False)
    if not repeated.any():
        return
    first = table[repeated].iloc[0]
    same = (table[list(KEY)].fillna(-1) == first[list(KEY)].fillna(-1)).all(axis=1)
    prints = sorted(table.loc[same, "fingerprint"].unique())
    known = [column for column in KEY if pd.notna(first[column]) and first[column] != ""]
    name = ", ".join(f"{column} {first[column]}" for column in known)
    if len(prints) > 1:
        raise MeasurementError(
            f"{source}: two artifacts give one cell ({name}): fingerprints {', '.join(prints)}; "
            "keep the rows of one state of the study"
        )
    raise MeasurementError(f"{source}: one cell is given {int(same.sum())} times ({name})")
