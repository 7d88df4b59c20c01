"""What the gallery says of Fashion-MNIST is what the analysis makes of its measurements."""

import re
from functools import cache

import pandas as pd
import pytest

from diffusability.analysis.analyse import analyse
from diffusability.analysis.catalogue import represented
from diffusability.analysis.correlation import meaningless, turned
from diffusability.analysis.equal_reconstruction import without_unequal
from diffusability.analysis.estimators import pearson
from diffusability.analysis.frames import read_table
from diffusability.analysis.intervals import cluster_interval
from diffusability.analysis.measurements import read_measurements
from diffusability.analysis.panels import Panel, paired
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "gallery" / "README.md"
FOLDER = PAGE.parent / "fashion"
STUDY = load_study(REPOSITORY / "studies" / "fashion.yaml")
TARGET = "generation.fd_judge"
DERIVED = ("correlations", "declared_tests", "noise_floor", "tokenizers", "predictions")
BACKBONES = {"sit": "SiT", "lightningdit": "LightningDiT"}
FAMILIES = {"conv-f4d8": "conv", "trans-f4d8": "trans"}
PANELS = [(backbone, family) for backbone in BACKBONES for family in FAMILIES]


@cache
def tables() -> dict[str, pd.DataFrame]:
    """Return the tables of the gallery; one test compares them with what is recomputed."""
    measured = read_measurements(FOLDER / "tables" / "measurements.csv.gz")
    stored = {name: read_table(FOLDER / "tables" / f"{name}.csv", name) for name in DERIVED}
    return {"measurements": measured} | stored


def recomputed() -> dict[str, pd.DataFrame]:
    """Return the tables that follow from the measurements; this takes the whole analysis."""
    return analyse({"measurements": tables()["measurements"]}, STUDY.analysis, DERIVED)


def of_target() -> pd.DataFrame:
    """Return the correlations with the target, by metric, backbone, family and step."""
    own = tables()["correlations"]
    own = own[own["target"] == TARGET]
    return own.set_index(["metric", "backbone", "family", "step"]).sort_index()


def number(value: float) -> str:
    """Return a number as the gallery writes it: `.87`, `-.30`; a dash where there is none."""
    if pd.isna(value):
        return "-"
    value = round(float(value), 2) + 0.0  # no minus sign before a zero
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def cell(row: pd.Series, statistic: str = "pearson") -> str:
    """Return a turned r and its interval: bold without zero, with a star if not tested."""
    value, low, high = turned(row, statistic)
    bold = "**" if low * high > 0 else ""
    star = "*" * meaningless(row)
    return f"{bold}{number(value)}{bold} [{number(low)}, {number(high)}]{star}"


def correlation_rows() -> dict[str, list[str]]:
    """Return r of each perspective's metric at the last step, by backbone and family."""
    found = of_target()
    last = found.index.get_level_values("step").max()
    rows = {}
    for metric, short in represented(found.index.get_level_values("metric")).items():
        own = [found.loc[(metric, *panel, last)] for panel in PANELS]
        rows[short] = [cell(row) for row in own]
        if short in ("VIV", "LNC"):
            rows[f"{short} given PSNR"] = [cell(row, "pearson_partial") for row in own]
    return rows


def step_rows() -> dict[str, list[str]]:
    """Return r of each declared metric at every training length, by backbone and family."""
    found = of_target()
    steps = sorted(found.index.unique("step"))
    return {
        f"{short}, {BACKBONES[backbone]}, {FAMILIES[family]}": [
            cell(found.loc[(metric, backbone, family, step)]) for step in steps
        ]
        for metric, short in represented(STUDY.analysis.declared.metrics).items()
        for backbone, family in PANELS
    }


def tokenizer_rows() -> dict[str, list[str]]:
    """Return reconstruction, declared metrics and images of each tokenizer, at the last step."""
    table, judged = tables()["measurements"], tables()["tokenizers"].set_index("tokenizer")
    names = represented(STUDY.analysis.declared.metrics)
    nested = ["tokenizer", "tokenizer_seed"]
    rows = {}
    for tokenizer, own in table.groupby("tokenizer", sort=False):
        psnr, rfd = judged.loc[str(tokenizer), ["psnr", "rfd"]]
        cells = [f"{psnr:.1f}", f"{rfd:.2f}"]
        for metric in names:
            value = own[own["metric"] == metric].groupby("tokenizer_seed")["value"].mean().mean()
            cells.append(number(value))
        for backbone in STUDY.selected_backbones:
            for metric, digits in ((TARGET, 2), ("generation.class_accuracy_judge", 3)):
                last = own[(own["metric"] == metric) & (own["backbone"] == backbone)]
                last = last[last["step"] == last["step"].max()]
                value = last.groupby(nested)["value"].mean().mean()
                cells.append(f"{value:.{digits}f}")
        left = "" if judged.loc[str(tokenizer), "comparable"] else " (left out)"
        rows[f"{tokenizer}{left}"] = cells
    return rows


def noise_rows() -> dict[str, list[str]]:
    """Return reliability, both noises, and sets of samples that failed, by backbone and family."""
    floor = tables()["noise_floor"]
    floor = floor[(floor["target"] == TARGET) & (floor["step"] == floor["step"].max())]
    floor = floor.set_index(["backbone", "family"])
    sets = tables()["measurements"]
    sets = sets[sets["metric"] == TARGET]
    rows = {}
    for backbone, family in PANELS:
        row = floor.loc[(backbone, family)]
        own = sets[(sets["backbone"] == backbone) & (sets["family"] == family)]
        failed = own["failed"].astype(bool).groupby(own["step"]).agg(["sum", "size"])
        ends = f" [{number(row['low'])}, {number(row['high'])}]"
        reliability = number(row["reliability"])
        rows[f"{BACKBONES[backbone]}, {FAMILIES[family]}"] = [
            reliability + ends * (reliability != "-"),
            number(row["variance_diffusion_seeds"] ** 0.5),
            number(row["variance_tokenizer_seeds"] ** 0.5),
            "; ".join(f"{bad} of {whole}" for bad, whole in failed.itertuples(index=False)),
        ]
    return rows


def distances() -> pd.Series:
    """Return the distance at the last step, means over seeds, of each training of a tokenizer."""
    table = tables()["measurements"]
    last = table[(table["metric"] == TARGET) & (table["step"] == table["step"].max())]
    return last.groupby(["backbone", "family", "tokenizer", "tokenizer_seed"])["value"].mean()


def retrained_rows() -> dict[str, list[str]]:
    """Return both trainings of each baseline, beside the extremes of the others of its family."""
    means = distances()
    table = tables()["measurements"].set_index(["metric", "tokenizer", "tokenizer_seed"])["value"]
    rows = {}
    for family, short in FAMILIES.items():
        for seed, word in enumerate(("first", "second")):
            name = f"{short}-base"
            cells = [f"{table['reconstruction.psnr', name, seed].item():.1f}"]
            cells.append(f"{table['reconstruction.fd_judge', name, seed].item():.2f}")
            for backbone in BACKBONES:
                others = means[backbone, family].drop(name)
                cells.append(f"{means[backbone, family, name, seed]:.2f}")
                cells.append(f"{others.min():.2f}, {others.max():.2f}")
            rows[f"{short}, {word} training"] = cells
    return rows


def test_a_second_training_moves_images_more_than_methods_do() -> None:
    means, more = distances(), 0
    for backbone, family in PANELS:
        name = f"{FAMILIES[family]}-base"
        first, second = means[backbone, family, name, 0], means[backbone, family, name, 1]
        others = means[backbone, family].drop(name)
        more += abs(second - first) > (others - first).abs().max()
    assert more == 3
    assert "more than any method did, in three of four panels" in " ".join(PAGE.read_text().split())
    retrained = tables()["measurements"].query("tokenizer_seed == 1")["tokenizer"]
    assert set(retrained) == {"conv-base", "trans-base"}


@pytest.mark.parametrize(
    "rows", [correlation_rows, step_rows, tokenizer_rows, noise_rows, retrained_rows]
)
def test_every_number_of_a_table_is_recomputed(rows) -> None:
    text = PAGE.read_text()
    for words, cells in rows().items():
        (line,) = re.findall(rf"^\| {re.escape(words)} \|(.*)\|$", text, flags=re.MULTILINE)
        assert [part.strip() for part in line.split("|")] == cells, words


@pytest.mark.release
def test_the_tables_of_the_gallery_follow_from_its_measurements() -> None:
    for name, table in recomputed().items():
        stored = tables()[name]
        pd.testing.assert_frame_equal(stored, table, check_dtype=False, rtol=1e-5, obj=name)


def test_the_inception_score_beside_the_distance() -> None:
    own = tables()["correlations"]
    own = own[(own["target"] == "generation.inception_score_judge") & (own["step"] == 1600)]
    found = own.set_index(["backbone", "family", "metric"])
    row = found.loc[("lightningdit", "conv-f4d8", "semantics.lnc5")]
    said = cell(row).replace("**", "")
    assert (
        f"r = {said}; Holm's p over the metrics of that panel {number(row['pearson_p_holm'])}"
        in (" ".join(PAGE.read_text().split()))
    )
    # from method to method it is beyond chance, as the page says
    last = tables()["measurements"].query("step == 1600 or step.isna()")
    equal = without_unequal(last, STUDY.analysis)
    panel = Panel("generation.inception_score_judge", "lightningdit", 1.0)
    rows = paired(equal, "semantics.lnc5", panel, "conv-f4d8").rows
    alone = cluster_interval(pearson, (rows["x"].to_numpy(), rows["y"].to_numpy()), rows["cluster"])
    assert alone.low[0] > 0


def test_what_the_page_says_of_all_tests() -> None:
    ends = tables()["declared_tests"]
    assert ends["verdict"].tolist() == ["undecided"] * 16
    known = ends[ends["turned_r_low"] * ends["turned_r_high"] > 0]
    named = zip(
        known["metric"], known["backbone"], known["family"], known["turned_r"] > 0, strict=True
    )
    assert set(named) == {
        ("spatial.srss", "sit", "conv-f4d8", True),
    }
    compared = tables()["tokenizers"].query("comparable")["tokenizer"]
    aligned = [STUDY.tokenizers[name].aligned_with != "" for name in compared]
    counts = pd.Series(aligned).groupby([name.partition("-")[0] for name in compared]).sum()
    assert counts.to_dict() == {"conv": 7, "trans": 8}


def test_what_the_page_says_along_training() -> None:
    """Intervals without zero before correction, and none after it."""
    found = of_target()
    metrics = list(STUDY.analysis.declared.metrics)
    earlier = found[found.index.get_level_values("step") < 1600].loc[metrics]
    earlier = earlier[~earlier["at_chance"].astype(bool) & ~earlier["failed"].astype(bool)]
    excluded = earlier[earlier["pearson_low"] * earlier["pearson_high"] > 0]
    assert set(excluded.index) == {
        ("semantics.lnc5", "lightningdit", "conv-f4d8", 800),
        ("smoothness.sec25", "lightningdit", "conv-f4d8", 800),
    }
    assert all(turned(row)[0] < 0 for _, row in excluded.iterrows())  # with worse images
    assert (excluded["pearson_p_holm"] > 0.05).all()


def test_what_the_page_counts() -> None:
    text = " ".join(PAGE.read_text().split())
    last = of_target().xs(1600, level="step").loc["velocity.viv"]
    counts = last.groupby("family")[["n", "clusters"]].max()
    assert counts.loc["conv-f4d8"].tolist() == [11, 8]
    assert counts.loc["trans-f4d8"].tolist() == [9, 5]
    assert "eleven tokenizers of eight methods with convolutions and nine of five methods" in text
    assert len({STUDY.tokenizers[n].aligned_with for n in STUDY.selected_tokenizers} - {""}) == 3
    assert STUDY.analysis.declared.target == TARGET  # and so not the Inception score
    floor = tables()["noise_floor"].set_index(["target", "backbone", "family", "step"])
    row = floor.loc[(TARGET, "lightningdit", "trans-f4d8", 1600)]
    assert row["seeds_needed"] == 10
    assert "would take 10 diffusion models" in text
    assert row["variance_diffusion_seeds"] >= row["variance_tokenizers"]
    conv = floor.loc[(TARGET, "sit", "conv-f4d8", 1600)]
    assert conv["variance_tokenizer_seeds"] > conv["variance_tokenizers"]


def test_what_the_page_says_of_predictions() -> None:
    distances = tables()["predictions"].set_index(["target", "backbone", "family"]).loc[TARGET]
    reasons = ("no better than", "a single cluster", "any one cluster")
    notes = distances["note"].tolist()
    assert all(any(reason in note for reason in reasons) for note in notes), notes
    assert "predicted in none of the four panels" in PAGE.read_text()


def test_what_the_page_says_of_the_samples() -> None:
    runs = tables()["measurements"]
    last = runs[runs["step"] == 1600]
    accuracy = last[last["metric"] == "generation.class_accuracy_judge"]
    means = accuracy.groupby(["backbone", "family", "tokenizer"])["value"].mean()
    medians = means.groupby(["backbone", "family"]).median()
    sit, other = ([number(medians[(b, f)]) for f in FAMILIES] for b in BACKBONES)
    text = " ".join(PAGE.read_text().split())
    assert (
        f"samples have {sit[0]} (conv) and {sit[1]} (trans) on SiT, {other[0]} and {other[1]}"
        in text
    )
    real = runs[runs["metric"] == "control.posterior.class_accuracy_judge"]
    assert f"real images: {number(real['value'].median())}," in text
    distances = last[last["metric"] == TARGET].set_index(["backbone", "family"]).sort_index()
    conv = distances.loc[("sit", "conv-f4d8")].groupby(["tokenizer", "tokenizer_seed"])["value"]
    assert conv.mean().idxmax() == ("conv-base", 1)  # trained again, the worst of its family
    for backbone in BACKBONES:
        own = distances.loc[(backbone, "trans-f4d8")].groupby(["tokenizer", "tokenizer_seed"])
        assert own["value"].mean().idxmin() == ("trans-base", 1)  # and the best of its own
    best = distances.loc["sit"].groupby(["family", "tokenizer"])["value"].mean()
    for name in best.groupby("family").idxmin():
        assert name[1] in text
        assert name[1] in (
            "conv-mdms-labels",
            "trans-repa-patches",
        )  # those whose samples are shown
    left_out = tables()["tokenizers"]["comparable"].eq(False)
    assert left_out.sum() == 4


def test_what_statistics_say_of_encoders() -> None:
    text = (PAGE.parent.parent / "statistics.md").read_text()
    rows = tables()["measurements"].query("metric == 'semantics.lnc5' and encoder != ''")
    kept = tables()["tokenizers"].query("comparable")["tokenizer"]
    rows = rows[rows["tokenizer"].isin(kept)]
    found = {}
    for family, name in FAMILIES.items():
        own = rows[rows["family"] == family]
        own = own.groupby(["tokenizer", "cluster", "encoder"], as_index=False)["value"].mean()
        for unit in ("encoder", "cluster"):
            between = own.groupby(unit)["value"].transform("mean").var(ddof=0)
            found[unit, name] = f"{between / own['value'].var(ddof=0):.0%}".replace("%", " %")
    assert f"{found['encoder', 'conv']} (convolutions)" in text
    assert f"{found['encoder', 'trans']} (transformers)" in text
    said = f"{found['cluster', 'conv']} and {found['cluster', 'trans']} between methods"
    assert said in " ".join(text.split())
