"""A list of measurements that is also a table."""

import pandas as pd

from diffusability.metrics.measurement import Measurement
from diffusability.scoring.table import COLUMNS


class Measurements(list[Measurement]):
    """Measurements in the order in which a metric returns them."""

    def to_frame(self) -> pd.DataFrame:
        """Return one row per measurement: metric, value, stderr, n, unit, direction, flags."""
        rows = [{**m.to_json(), "flags": "; ".join(m.flags)} for m in self]
        return pd.DataFrame(rows, columns=COLUMNS)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return self.to_frame().to_html(index=False, na_rep="")
