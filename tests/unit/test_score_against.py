"""Where a latent space lies among known ones."""

from pathlib import Path

import jinja2
import pandas as pd
import pytest

from diffusability.errors import StudyError
from diffusability.report.page import TEMPLATE
from diffusability.scoring.against import (
    ABOUT,
    against_text,
    place,
    places_on_page,
    read_known,
)
from diffusability.scoring.plot import draw_scores, scores_svg
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
    known, mine = read_known("shapes-small"), [scored(velocity__viv=(0.3, False))]
    drawn = scores_svg(mine, known)
    assert drawn == scores_svg(mine, known)
    more = scored(velocity__viv=(0.3, False), fisher__fir=(0.9, False))  # of which none is known
    assert [axis.get_yticklabels()[0].get_text() for axis in draw_scores([more], known).axes] == [
        "VIV"
    ]
    places = places_on_page(mine, known, ["a < b"], drawn)
    assert places is not None
    page = TEMPLATE.read_text(encoding="utf-8")
    start, end = page.index("{% if places %}<h2"), page.index('<h2 id="doubts">')
    grid = page[page.index("{% macro grid") : page.index("{% macro drawing")]
    part = jinja2.Environment(autoescape=True).from_string(grid + page[start:end])
    table = {"header": list(places.table.columns), "rows": places.table.values.tolist()}
    section = part.render(places={**vars(places), "table": table})
    assert section.index('id="against"') < section.index("<td>VIV</td>")
    assert "not as a verdict" in section
    assert 'src="data:image/svg+xml;base64,' in section
    assert "<li>a &lt; b</li>" in section
    assert part.render(places=None).strip() == ""
    assert places_on_page([scored(other__metric=(0.3, False))], known) is None
