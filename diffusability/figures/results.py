"""What figures are drawn from: the tables of one study, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from diffusability.analysis.headline import target_metric
from diffusability.analysis.tables import families
from diffusability.analysis.tidy import read_tables
from diffusability.study.plan import Plan


@dataclass(frozen=True)
class Results:
    """The tables of a study, and how figures name what is in them.

    Attributes:
        tables: by name; ``measurements`` is checked (``check_measurements``), the others are those
            of ``analyse``. What a study lacks is absent.
        numbers: order number of each tokenizer in the study file, from 1 (the ID of Table 1).
        target: the Fréchet distance of generated images, lower is better.
    """

    tables: Mapping[str, pd.DataFrame]
    numbers: Mapping[str, int]
    target: str

    @property
    def measurements(self) -> pd.DataFrame:
        """The tidy table."""
        return self.tables["measurements"]

    @property
    def families(self) -> list[str]:
        """The tokenizer families, in the order of the table."""
        return families(self.measurements)[1:]

    def measured(self, pattern: str) -> str | None:
        """Return the first metric that fits a shell pattern, None where there is none."""
        names = dict.fromkeys(self.measurements["metric"])
        return next((name for name in names if fnmatchcase(name, pattern)), None)

    def row(self, table: str, **wanted: object) -> dict[str, Any] | None:
        """Return the first row of a table whose columns equal what is wanted, None if none does.

        A wanted None is a missing cell: as ``cfg``, each tokenizer's best guidance scale.
        """
        frame = self.tables.get(table)
        if frame is None:
            return None
        for column, value in wanted.items():  # one after the other: tables can be long
            if frame.empty:
                return None
            frame = frame[frame[column].isna() if value is None else frame[column] == value]
        return None if frame.empty else {str(k): v for k, v in frame.iloc[0].items()}


def read_results(plan: Plan) -> Results:
    """Return the tables of a study as they were written.

    Raises:
        ArtifactError: a table is missing, or holds the measurements of another state of the study.
        MeasurementError: the tidy table is not one.
    """
    numbers = {name: place for place, name in enumerate(plan.study.tokenizers, start=1)}
    return Results(read_tables(plan), numbers, target_metric(plan.study))
