"""What has to be there before the first job: files and packages, each named with its remedy."""

from pathlib import Path
from typing import get_args

import pytest

from diffusability.errors import StudyError
from diffusability.study.core import commands
from diffusability.study.entries.encoder import VisionEncoder
from diffusability.study.entries.vision_models import FACTS, VisionModel, hub_cache
from diffusability.study.preflight import needs
from diffusability.study.preflight.needs import check_needs, missing, missing_packages, study_needs
from diffusability.study.reading.load import load_study, read_yaml
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.study import Study
from tests.conftest import REPOSITORY


def vision_study(**encoder: object) -> Study:
    """The smoke study with its alignment target replaced by a published model."""
    study = load_study(str(REPOSITORY / "studies/smoke.yaml"))
    entry = VisionEncoder.model_validate({"kind": "vision", "model": "clip-l", **encoder})
    return study.model_copy(update={"encoders": {**study.encoders, "glyph": entry}})


def test_every_model_has_its_facts() -> None:
    assert tuple(FACTS) == get_args(VisionModel)
    assert len(FACTS) == 15


def test_the_cache_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub_cache() == Path.home() / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert hub_cache() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/h")
    assert hub_cache() == Path("/h/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/c")
    assert hub_cache() == Path("/c")


def test_a_missing_weight_file_says_where_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    (need,) = missing(study_needs(vision_study()))
    folder = Path("/nowhere/models--timm--vit_large_patch14_clip_224.openai/snapshots/main")
    assert need.path == folder / "model.safetensors"
    assert need.what == "weights of clip-l"
    assert "timm/vit_large_patch14_clip_224.openai" in need.remedy
    assert "`weights`" in need.remedy
    (need,) = missing(study_needs(vision_study(weights="here/clip.safetensors")))
    assert need.path == Path("here/clip.safetensors")


def test_a_derived_tokenizer_needs_what_the_one_it_is_derived_from_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("class Loss: pass")
    study = read_yaml(REPOSITORY / "studies/smoke.yaml")
    study["datasets"]["digits"]["size"] = 16
    study["encoders"]["lpips"] = {"kind": "lpips", "weights": "vgg.pth"}
    aligned = {"objective": {"perceptual": 1.0, "perceptual_encoder": "lpips"}}
    own = {"method": "python", "object": "mine:Nothing"}
    study["tokenizers"]["own"] = {"base": "conv-f2d4", **own, **aligned}
    study["tokenizers"]["own-means"] = {"source": "means", "of": "own"}
    study["select"]["tokenizers"] = ["own-means"]
    found = resolve_study(study, "here")
    assert found.made_tokenizers == ("own", "own-means")
    assert "lpips" in found.used_encoders
    whats = {need.what for need in missing(study_needs(found))}
    assert whats == {"code of `mine:Nothing`", "VGG-16 weights of LPIPS"}
    study["datasets"]["digits"]["size"] = 8
    with pytest.raises(StudyError, match=r"encoders\.lpips: LPIPS needs images of 16 pixels"):
        resolve_study(study, "here")


def test_packages_and_files_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    with pytest.raises(StudyError) as raised:
        check_needs(vision_study(model="webssl-300m"))
    first, *rest = str(raised.value).splitlines()
    assert first.endswith("1 file and 1 package missing; aborted before any job started")
    assert (
        rest[0].strip().startswith("package transformers: not installed; install the `paper` extra")
    )
    assert rest[1].strip().startswith("weights of webssl-300m: not at /nowhere/")


def test_nothing_is_missing_where_nothing_is_published() -> None:
    study = load_study(str(REPOSITORY / "studies/smoke.yaml"))
    check_needs(study)
    assert missing_packages(study) == []


def test_remedies_install_from_the_checkout_or_by_the_names_of_packages(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commands.install_command("paper") == f'pip install -e "{REPOSITORY}[paper]"'
    monkeypatch.chdir(REPOSITORY)
    assert commands.install_command("paper") == 'pip install -e ".[paper]"'
    monkeypatch.setattr(commands, "PACKAGE", workplace / "diffusability")
    named = ["numpy>=2", "timm>=1.0.31; extra == 'paper'", "mypy; extra == 'dev'"]
    monkeypatch.setattr(commands, "requires", lambda package: named)
    assert commands.install_command("paper") == "pip install 'timm>=1.0.31'"


def test_controls_alone_need_the_reference_of_generation() -> None:
    study = read_yaml(REPOSITORY / "studies/smoke.yaml")
    del study["backbones"]
    study["encoders"]["inception"] = {"kind": "inception", "weights": "inception.pth"}
    reference = {"extractor": "inception", "reference_statistics": "nowhere.npz"}
    study["metrics"]["generation"] = reference | {"controls": ["gaussian"]}
    needs = {need.path.name for need in missing(study_needs(resolve_study(study, "here")))}
    assert needs == {"inception.pth", "nowhere.npz"}
    study["metrics"]["generation"]["controls"] = []
    assert not missing(study_needs(resolve_study(study, "here")))
