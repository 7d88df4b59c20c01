"""The table of known latent spaces that comes with the package, from the gallery's measurements.

`python -m tests.known_spaces --accept` writes it.
"""

import json
import sys

import pandas as pd

from diffusability.scoring.against import KNOWN
from diffusability.scoring.table import Score, decides_value, shown_rows
from tests.conftest import REPOSITORY

GALLERY = REPOSITORY / "docs/gallery/fashion/tables/measurements.csv.gz"
ALIKE = ("chance", "smallest_class")  # see `comparable.difference`
FILE = KNOWN / "fashion.csv"


def known_spaces() -> pd.DataFrame:
    """Return what a score shows of each tokenizer: means over seeds, with their options."""
    table = pd.read_csv(GALLERY, low_memory=False)
    table = table[table["backbone"].isna() & table["value"].notna()]
    rows = []
    for tokenizer, own in table.groupby("tokenizer", sort=False):
        means = own.groupby("metric", sort=False).agg(
            {"family": "first", "cluster": "first", "value": "mean", "options": "first"}
        )
        options = [json.loads(text or "{}") for text in means["options"]]
        means = means.reset_index().assign(flags=[()] * len(means), options=options)
        cells = means.to_dict("records")
        for _, _, m in shown_rows(Score(str(tokenizer), cells, {})):
            kept = {
                key: value
                for key, value in m["options"].items()
                if decides_value(key) or key in ALIKE
            }
            row = {"tokenizer": tokenizer, **{k: m[k] for k in ("family", "cluster", "metric")}}
            value = float(f"{m['value']:.8g}")
            rows.append(row | {"value": value, "options": json.dumps(kept, sort_keys=True)})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    if sys.argv[1:] != ["--accept"]:
        raise SystemExit(__doc__)
    known_spaces().to_csv(FILE, index=False)
