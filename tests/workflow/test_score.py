"""A score gives the numbers of the study, to the last digit."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study
from tests.workflow.browser import find_browser, look
from tests.workflow.workspace import Workspace


def numbers(finished: Workspace, folder: str, name: str) -> dict[str, float]:
    found = json.loads((finished.path / folder / "score.json").read_text())[name]
    return {m["metric"]: m["value"] for m in found["measurements"]}


def of_study(finished: Workspace) -> dict[str, float]:
    table = pd.read_csv(finished.path / "results/tables/smoke/measurements.csv")
    own = table[(table["tokenizer"] == "conv-base") & table["backbone"].isna()]
    return dict(own[own["value"].notna()].set_index("metric")["value"])


def test_a_tokenizer_of_a_study_has_the_numbers_of_the_study(
    finished: Workspace, tmp_path: Path
) -> None:
    made = {
        path: path.stat().st_mtime_ns for path in finished.path.glob("results/*/conv-base/**/*")
    }
    words = ("score", "conv-base", "--study", "study.yaml", "-c", "1", "--results", ".")
    against = ("--against", "results/tables/smoke")
    output = finished.run("diffusability", *words, *against).stdout
    assert "VIV (velocity.viv)" in output
    # its images and shape are those of the study, whose models were trained too shortly
    reason = "the study cannot predict: most of its diffusion models failed"
    for backbone in ("sit-a", "sit-b"):
        sentence = rf"no prediction of Fréchet distance \(judge\) of {backbone} after \d+ steps"
        assert re.search(f"{sentence}.*: {reason}", output)
    expected = pd.read_csv(finished.path / "score-expected.csv")
    assert set(expected["latents"]) == {"conv-base"}
    found, expected = numbers(finished, ".", "conv-base"), of_study(finished)
    assert found == {metric: expected[metric] for metric in found}
    assert {"reconstruction.psnr", "continuity.ifd_judge", "fisher.fir"} <= set(found)
    assert all(path.stat().st_mtime_ns == before for path, before in made.items())
    page = (finished.path / "score.html").read_text()
    assert "This study has no diffusion models" in page
    assert "claimFilter?.addEventListener" in page  # there is no table of claims
    assert "learned, class-conditional" not in page
    for shown in ("LDS", "scale error", "entropy", "MMSE rate", "PSNR (dB)"):
        assert f"<td>{shown}</td>" in page
    for width in (390, 1280) if find_browser() else ():  # a phone and a desktop
        seen = look(finished.path / "score.html", width, tmp_path)
        assert (seen["fetched"], seen["broken"]) == ([], [])
        assert seen["content"] <= seen["width"], seen["wide"]
        assert seen["smallest"] >= 11  # pixels
        assert seen["shown"]


def relatives(table: pd.DataFrame, slope: float) -> pd.DataFrame:
    """Return the measurements of a study of conv-base and twelve made-up tokenizers of its family.

    The logarithm of the distance of their images rises by ``slope`` per relative step of VIV, with
    a noise of 0.01; that of conv-base is 1. No model failed.
    """
    own = table[(table["tokenizer"] == "conv-base") & (table["backbone"] != "sit-b")]
    own.loc[own["failed"].notna(), ["failed", "failed_reason"]] = [False, ""]
    rng, parts = np.random.default_rng(0), []
    for step in range(-6, 7):
        viv, distance = 1 + 0.02 * step, np.exp(slope * 0.02 * step + 0.01 * rng.normal())
        part = own.assign(cluster=f"c{step}")
        if step:
            part["tokenizer"] = f"made-{step}"
        part.loc[part["metric"] == "velocity.viv", "value"] *= viv
        part.loc[part["metric"] == "generation.fd_judge", "value"] = distance if step else 1.0
        parts.append(part)
    return pd.concat(parts)


def test_a_finished_study_predicts_the_images_of_its_like(finished: Workspace) -> None:
    known = finished.path / "results/tables/known"
    known.mkdir()
    table = pd.read_csv(finished.path / "results/tables/smoke/measurements.csv")
    relatives(table, slope=5.0).to_csv(known / "measurements.csv", index=False)
    words = ("score", "conv-base", "--study", "study.yaml", "-c", "1", "--results", ".")
    output = finished.run("diffusability", *words, "--against", "results/tables/known").stdout
    rows = pd.read_csv(finished.path / "score-expected.csv")
    (row,) = rows[rows["target"] == "generation.fd_judge"].to_dict("records")
    assert (row["latents"], row["backbone"], row["metrics"], row["n"]) == (
        *("conv-base", "sit-a", "VIV"),
        12,  # without its own cluster
    )
    assert row["low"] < 1 < row["high"]
    assert row["value"] == pytest.approx(1, abs=0.02)
    assert row["high"] / row["low"] < 1.1
    assert row["spearman"] > 0.95
    number = re.escape(f"{row['value']:.4g} (80 % interval {row['low']:.4g} to {row['high']:.4g})")
    sentence = rf"conv-base: expected Fréchet distance .*{number}.*measured is 1"
    page = (finished.path / "score.html").read_text()
    assert re.search(sentence, output)
    assert re.search(sentence, page[: page.index("<nav>")])  # before any table


@pytest.mark.release
def test_latents_of_a_study_have_the_numbers_of_the_study(finished: Workspace) -> None:
    plan = Plan(load_study(finished.path / "study.yaml"))
    (latents, _) = plan.of_stage("latents")
    folder = finished.path / "results/cache/latents" / latents.fingerprint
    parts = [load_file(path) for path in sorted(folder.glob("shard-*.safetensors"))]
    for name, key in (("z", "mean"), ("y", "labels"), ("m", "foreground")):
        np.save(finished.path / f"{name}.npy", np.concatenate([p[key].numpy() for p in parts]))
    words = ("score", "z.npy", "--labels", "y.npy", "--masks", "m.npy", "-c", "1")
    chosen = ("--metrics", "velocity", "semantics", "spatial", "smoothness", "--results", "own")
    finished.run("diffusability", *words, *chosen)
    found, expected = numbers(finished, "own", "z"), of_study(finished)
    assert {"velocity.viv", "semantics.lnc5", "spatial.srss", "smoothness.sec25"} <= set(found)
    # latents on disk are not split, so their probe is cross-validated
    assert found.pop("semantics.probe") != expected.pop("semantics.probe")
    assert found == {metric: expected[metric] for metric in found}
