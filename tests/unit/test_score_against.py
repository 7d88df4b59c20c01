"""Where a latent space lies among known ones."""

from dataclasses import replace
from pathlib import Path

import jinja2
import pandas as pd
import pytest

from diffusability.errors import StudyError
from diffusability.report.page import TEMPLATE
from diffusability.scoring.against import (
    ABOUT,
    Known,
    against_text,
    not_compared,
    place,
    places_on_page,
    read_known,
)
from diffusability.scoring.plot import draw_scores, scores_svg
from diffusability.scoring.request import DEFAULTS
from diffusability.scoring.table import Score
from tests.known_spaces import FILE, known_spaces


def scored(
    flags: tuple[str, ...] = (),
    options: dict[str, object] | None = None,
    **values: tuple[float, bool | None],
) -> Score:
    cells = [
        {"metric": name.replace("__", "."), "value": value, "stderr": None, "n": 1, "unit": "1"}
        | {"higher_is_better": up, "options": options or {}, "flags": list(flags)}
        for name, (value, up) in values.items()
    ]
    return Score("mine", cells, {})


@pytest.fixture
def fir_of(tmp_path: Path):
    """Return a function that makes a table of the FIR of two spaces, a and b."""

    def written(flags: str = "", options: str = "{}") -> Known:
        rows = [("a", "fisher.fir", 0.1, flags, options), ("b", "fisher.fir", 0.2, flags, options)]
        columns = ["tokenizer", "metric", "value", "flags", "options"]
        pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "measurements.csv")
        return read_known(str(tmp_path))

    return written


UNCONDITIONAL, BOUND = "one class: unconditional", "data-limited: a bound at v <= 0.3"


@pytest.mark.parametrize(
    ("own", "known", "reason"),
    [
        ((), "", ""),
        (("rank-deficient",), "rank-deficient", ""),
        ((UNCONDITIONAL,), "", "measured without classes here, with classes for the known spaces"),
        ((UNCONDITIONAL,), f"x; {UNCONDITIONAL}", ""),  # both are of one class
        ((), UNCONDITIONAL, "measured with classes here, without for the known spaces"),
        ((BOUND,), "", "a bound, because there are too few images"),
        ((), BOUND, "the values of the known spaces are bounds"),
    ],
)
def test_bounds_and_what_uses_other_labels_have_no_place(fir_of, own, known, reason) -> None:
    found, mine = fir_of(known), scored(flags=own, fisher__fir=(0.15, False))
    assert place(mine, found).empty == bool(reason)
    assert [reason in sentence for sentence in not_compared([mine], found)] == [True] * bool(reason)
    assert reason in against_text([mine], found)


def test_values_have_a_place_among_those_of_equal_options(fir_of) -> None:
    known = fir_of(options='{"points": 1000, "repeats": 5, "seed": 1, "flip": false}')
    for options, reason in (
        ({"points": 1000, "repeats": 2, "seed": 2, "halvings": 8}, ""),
        ({"points": 500, "flip": False}, "measured otherwise: points 500 (known: 1000)"),
        ({"points": 1000, "flip": True}, "measured otherwise: flip True (known: False)"),
    ):
        mine = scored(options=options, fisher__fir=(0.15, False))
        assert place(mine, known).empty == bool(reason)
        assert not_compared([mine], known) == [f"FIR of mine: {reason}"] * bool(reason)
    without = scored(fisher__fir=(0.1, False))  # as in tables of earlier versions
    assert place(without, known)["known"].tolist() == [2]
    assert "Not compared:\n  FIR of mine: measured" in against_text([mine, without], known)


def test_values_of_other_classes_and_of_few_images_of_a_class_have_no_place(fir_of) -> None:
    known = fir_of(options='{"chance": 0.1, "smallest_class": 500}')
    for options, reason in (
        ({"chance": 0.11, "smallest_class": 130}, ""),
        ({"chance": 0.5, "smallest_class": 500}, "chance is 0.5 here, 0.1 for the known spaces"),
        ({"chance": 0.1, "smallest_class": 24}, "24 images of the smallest class here, 500 for"),
    ):
        mine = scored(options=options, fisher__fir=(0.15, False))
        assert place(mine, known).empty == bool(reason)
        assert reason in " ".join(not_compared([mine], known))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "measurements.csv"
    for content in (b"", b"\xff\xfe\x00", b"a,b\n1,2,3\n1,2,3,4\n"):
        path.write_bytes(content)
        with pytest.raises(StudyError, match="is no table of measurements|has no columns"):
            read_known(str(tmp_path))
    path.write_text("tokenizer,metric,value,options\na,velocity.viv,1,{x\n")
    with pytest.raises(StudyError, match="is no table of measurements"):
        read_known(str(tmp_path))


def test_a_scored_tokenizer_of_the_study_is_not_compared_with_itself(fir_of) -> None:
    known = replace(fir_of(), images="d1")
    mine = scored(fisher__fir=(0.1, False))
    for images, name, count, nearest in (
        ("d1", "a", 1, "b"),
        ("d1", "a/s1", 1, "b"),
        ("", "a", 1, "b"),
        ("d2", "a", 2, "a, b"),  # of other images: another space of the same name
        ("d1", "mine", 2, "a, b"),
    ):
        found = place(replace(mine, name=name), known, images).iloc[0]
        assert (found["known"], found["nearest"]) == (count, nearest)
        assert found["outside"] == ("yes" if count == 1 else "")


def test_a_comparison_on_the_same_images_needs_no_caveat(fir_of) -> None:
    known, mine = replace(fir_of(), images="d1"), [scored(fisher__fir=(0.1, False))]
    for images, care in (
        ("d1", ""),
        ("d2", "of other images"),
        ("", "Unless they are of"),
    ):
        page = places_on_page(mine, known, images=images)
        assert page is not None
        for text in (against_text(mine, known, images=images), page.about):
            assert care in text
            assert ("not as a verdict" in text) == bool(care)


def test_uniformity_of_a_score_is_measured_as_that_of_the_known_spaces() -> None:
    known = read_known("fashion")
    options = {"perplexity": 30.0, "posterior": "draw", "flip": False, **DEFAULTS["uniformity"]}
    alike = scored(options=options, uniformity__normalised_entropy=(0.99, True))
    assert place(alike, known)["known"].tolist() == [12, 12]  # of each family
    fewer = scored(options=options | {"points": 200}, uniformity__normalised_entropy=(0.999, True))
    assert place(fewer, known).empty  # entropy grows with the number of points
    given = scored(options=options | {"posterior": "mean"}, uniformity__gini=(0.2, False))
    assert not_compared([given], known) == [
        "Gini of mine: measured on one latent per image here, on posterior draws for the "
        "known spaces"
    ]


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
    stored = pd.read_csv(FILE)
    pd.testing.assert_frame_equal(stored, known_spaces(), check_dtype=False, rtol=1e-7)
    assert stored.groupby("metric").size().eq(24).all()
    known = read_known("fashion")
    assert "450,000 parameters" in ABOUT["fashion"]
    text = against_text([scored(velocity__viv=(0.3, False), semantics__lnc5=(0.5, True))], known)
    assert "not as a verdict" in text
    assert "24" in text


def test_an_unknown_table_is_refused_with_those_that_exist() -> None:
    with pytest.raises(StudyError, match="come with the package: fashion"):
        read_known("imagenet")


def test_the_page_shows_the_places_before_its_warnings() -> None:
    known, mine = read_known("fashion"), [scored(velocity__viv=(0.3, False))]
    drawn = scores_svg(mine, known)
    assert drawn == scores_svg(mine, known)
    more = scored(velocity__viv=(0.3, False), reconstruction__fid=(9.0, False))  # not known
    assert [axis.get_yticklabels()[0].get_text() for axis in draw_scores([more], known).axes] == [
        "VIV"
    ]
    places = places_on_page(mine, known, ["a < b"], drawn)
    assert places is not None
    page = TEMPLATE.read_text(encoding="utf-8")
    start, end = page.index("{% if places %}<h2"), page.rindex("{% if not target %}")
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
