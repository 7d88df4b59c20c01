"""The table of known latent spaces that comes with the package, from the gallery's measurements.

`python -m tests.known_spaces --accept` writes it.
"""

import json
import sys
from fnmatch import fnmatchcase

import pandas as pd

from diffusability.scoring.against import KNOWN
from diffusability.scoring.comparable import decides_value
from diffusability.scoring.table import shown_patterns
from tests.conftest import REPOSITORY

GALLERY = REPOSITORY / "docs/gallery/fashion/tables/measurements.csv.gz"
FILE = KNOWN / "fashion.csv"


def known_spaces() -> pd.DataFrame:
    """Return what a score shows of each tokenizer: means over seeds, with their options."""
    table = pd.read_csv(GALLERY, low_memory=False)
    table = table[table["backbone"].isna() & table["value"].notna()]
    patterns = [pattern for _, _, pattern in shown_patterns()]
    rows = []
    for _, own in table.groupby("tokenizer", sort=False):
        for pattern in patterns:
            names = [name for name in own["metric"].unique() if fnmatchcase(name, pattern)]
            if not names:
                continue
            of_metric = own[own["metric"] == names[0]]
            row = of_metric.iloc[0][["tokenizer", "family", "cluster", "metric"]].to_dict()
            options = json.loads(of_metric.iloc[0]["options"] or "{}")
            kept = {key: value for key, value in options.items() if decides_value(key)}
            value = float(f"{of_metric['value'].mean():.8g}")
            rows.append(row | {"value": value, "options": json.dumps(kept, sort_keys=True)})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    if sys.argv[1:] != ["--accept"]:
        raise SystemExit(__doc__)
    known_spaces().to_csv(FILE, index=False)
