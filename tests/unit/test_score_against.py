"""Where a latent space lies among known ones."""

from pathlib import Path

import pandas as pd
import pytest

from diffusability.errors import StudyError
from diffusability.report.page import TEMPLATE
from diffusability.scoring.against import (
    ABOUT,
    BEFORE,
    against_text,
    place,
    read_known,
    with_places,
)
from diffusability.scoring.plot import scores_svg
from diffusability.scoring.table import Score

GALLERY = Path(__file__).parents[2] / "docs/gallery/shapes-small/tables/measurements.csv.gz"


def scored(**values: tuple[float, bool | None]) -> Score:
    cells = [
        {"metric": name.replace("__", "."), "value": value, "stderr": None, "n": 1, "unit": "1"}
        | {"higher_is_better": up, "options": {}, "flags": []}
        for name, (value, up) in values.items()
    ]
    return Score("mine", cells, {})


def test_a_percentile_counts_the_worse_and_half_of_the_equal(tmp_path: Path) -> None:
    file = tmp_path / "measurements.csv"
    names = ("a", "007", "nan", "1e2")  # text, whatever they look like
    values = (0.1, 0.2, 0.3, 0.4)
    rows = [(t, "velocity.viv", v, None) for t, v in zip(names, values, strict=True)]
    rows += [("a", "velocity.viv", 9.0, "sit")]  # of a model, not of latents
    pd.DataFrame(rows, columns=["tokenizer", "metric", "value", "backbone"]).to_csv(file)
    found = place(scored(velocity__viv=(0.2, False)), read_known(str(tmp_path))).iloc[0]
    assert (
        found["better_than"] == 100 * (2 + 0.5) / 4
    )  # lower is better: two are worse, one is equal
    assert (found["known"], found["nearest"].split(", ")[0]) == (4, "007")
    assert found["outside"] == ""
    beyond = place(scored(velocity__viv=(0.5, False)), read_known(str(file))).iloc[0]
    assert (beyond["outside"], beyond["better_than"]) == ("yes", 0)
    up = place(scored(velocity__viv=(0.2, True)), read_known(str(file))).iloc[0]
    assert up["better_than"] == 100 * (1 + 0.5) / 4


def test_tables_of_the_package_are_those_of_the_gallery() -> None:
    table = pd.read_csv(GALLERY, low_memory=False)
    known = read_known("shapes-small")
    own = table[table["metric"].isin(known.values.columns) & table["backbone"].isna()]
    means = own.groupby(["tokenizer", "metric"])["value"].mean().unstack()
    pd.testing.assert_frame_equal(known.values, means, rtol=1e-7)
    assert "few thousand parameters" in ABOUT["shapes-small"]
    text = against_text([scored(velocity__viv=(0.3, False), semantics__lnc5=(0.5, True))], known)
    assert "not as a verdict" in text
    assert "24" in text


def test_an_unknown_table_is_refused_with_those_that_exist() -> None:
    with pytest.raises(StudyError, match="come with the package: shapes-small"):
        read_known("imagenet")


def test_the_page_shows_the_places_before_its_warnings() -> None:
    known = read_known("shapes-small")
    template = TEMPLATE.read_text()
    assert template.count(BEFORE) == 1
    page = with_places(template, [scored(velocity__viv=(0.3, False))], known)
    section, _, _ = page.partition(BEFORE)
    assert "<td>VIV</td>" in section
    assert "not as a verdict" in section
    assert page.replace(section.partition('<h2 id="against">')[2], "").count(BEFORE) == 1
    drawn = scores_svg([scored(velocity__viv=(0.3, False))], known)
    assert drawn == scores_svg([scored(velocity__viv=(0.3, False))], known)
    page = with_places(template, [scored(velocity__viv=(0.3, False))], known, ["a < b"], drawn)
    assert 'src="data:image/svg+xml;base64,' in page
    assert "<li>a &lt; b</li>" in page
    assert with_places(template, [scored(other__metric=(0.3, False))], known) == template
