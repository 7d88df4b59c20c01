"""What a study of published networks needs is named before it starts: files and packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusability.artifacts.job import Job
from diffusability.artifacts.named_content import check_named_contents
from diffusability.errors import ArtifactError, DataError, StudyError
from diffusability.stages.make import make
from diffusability.study.entries.encoder import LpipsEncoder
from diffusability.study.entries.tokenizer import ExternalTokenizer
from diffusability.study.metrics.generation import GenerationMetric
from diffusability.study.planning.plan import Plan
from diffusability.study.preflight import needs
from diffusability.study.preflight.needs import (
    broken_packages,
    check_needs,
    missing_packages,
    study_needs,
)
from diffusability.study.study import Study
from tests.conftest import REPOSITORY
from tests.unit.study_run import plan_of


def published(**select: object) -> Study:
    """The smoke study with an external tokenizer, LPIPS, Inception and reference statistics."""
    entry = {"source": "diffusers", "path": "/nowhere/vae", "factor": 2, "channels": 4}
    over = {
        "datasets": {"digits": {"size": 16}},
        "encoders": {
            "inception": {"kind": "inception", "weights": "/nowhere/inception.pth"},
            "vgg": {"kind": "lpips", "weights": "/nowhere/vgg16.pth"},
        },
        "tokenizers": {"own": entry},
        "metrics": {
            "reconstruction": {"lpips": "vgg"},
            "generation": {
                "extractor": "inception",
                "reference_statistics": "/nowhere/VIRTUAL.npz",
            },
        },
        "select": {"tokenizers": ["own"], **select},
    }
    return plan_of(over).study


def test_files_and_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    study = published()
    assert [str(need.path) for need in study_needs(study)] == [
        "/nowhere/vgg16.pth",
        "/nowhere/inception.pth",
        "/nowhere/VIRTUAL.npz",
        "/nowhere/vae",
    ]
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    assert missing_packages(study) == ["lpips", "torch_fidelity", "diffusers"]
    with pytest.raises(StudyError, match="4 files or folders and 3 packages missing"):
        check_needs(study)


def test_a_selection_needs_its_own_alone() -> None:
    study = published(tokenizers=["conv-base"], metrics=["velocity"], backbones=["sit-a"])
    assert [str(need.path) for need in study_needs(study)] == [
        "/nowhere/inception.pth",
        "/nowhere/VIRTUAL.npz",
    ]


def test_places_are_in_no_fingerprint_and_contents_are() -> None:
    def name(path: str, **more: object) -> str:
        entry = {"source": "diffusers", "path": path, "factor": 2, "channels": 4, **more}
        (tokenizer,) = plan_of(
            {"tokenizers": {"own": entry}, "select": {"tokenizers": ["own"]}}
        ).of_stage("tokenizer")
        assert Path(path) == Path(tokenizer.local["path"])
        return tokenizer.fingerprint

    assert name("/here/vae") == name("/there/vae") != name("/here/other")
    assert name("/here/vae") == name("/here/other", content="vae")


def test_folders_of_one_name_are_told_apart_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = {name: tmp_path / name / "vae" for name in ("sd", "sdxl", "moved")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"1" if name == "sdxl" else b"0")
    content = {
        name: ExternalTokenizer(
            source="diffusers", path=str(folder), factor=8, channels=4
        ).canonical()
        for name, folder in folders.items()
    }
    assert content["sd"] == content["moved"] != content["sdxl"]
    absent = ExternalTokenizer(source="diffusers", path="models/x/vae", factor=8, channels=4)
    assert absent.content == "vae"  # the name stands in until the folder is there


def write_vae(folder: Path, weights: bytes) -> Path:
    """Write a stand-in for a folder that diffusers saved."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def two_vaes(**content: str) -> Plan:
    """Return the plan of a study on two autoencoders whose folders have one last name."""
    entry = {"source": "diffusers", "factor": 2, "channels": 4, **content}
    tokenizers = {name: entry | {"path": f"models/{name}/vae"} for name in ("sd", "sdxl")}
    return plan_of({"tokenizers": tokenizers, "select": {"tokenizers": list(tokenizers)}})


def test_two_autoencoders_of_one_folder_name_share_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    for name in ("sd", "sdxl"):
        write_vae(Path("models", name, "vae"), name.encode())
    plan = two_vaes()
    for stage in ("tokenizer", "latents", "smoothness", "spatial"):
        assert len({artifact.fingerprint for artifact in plan.of_stage(stage)}) == 2
    check_named_contents(plan.study, record=True)
    assert not Path("results/contents").exists()
    named = two_vaes(content="vae")
    assert len({artifact.fingerprint for artifact in named.of_stage("latents")}) == 1
    with pytest.raises(DataError, match="models/sdxl/vae: not the autoencoder files that .* `vae`"):
        check_named_contents(named.study, record=True)
    # a job that was planned for other weights
    job = Job.from_json(plan.of_stage("tokenizer")[0].job())
    Path("models/sd/vae/model.safetensors").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="has changed since the study was planned"):
        make(job, workplace)


def test_reference_statistics_are_known_by_their_content(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    for k, content in (("a", b"0"), ("b", b"1"), ("c", b"0")):
        Path(k).mkdir()
        Path(k, "moments.npz").write_bytes(content)

    def metric(place: str, **more: str) -> GenerationMetric:
        return GenerationMetric(extractor="judge", reference_statistics=place, **more)

    a, b, c = (metric(f"{k}/moments.npz") for k in "abc")
    assert a.canonical() == c.canonical() != b.canonical()
    assert metric("absent/moments.npz").reference_content == "moments.npz"
    assert a.named_contents() == ()
    (named,) = metric("b/moments.npz", reference_content="adm").named_contents()
    assert (named.name, named.digests) == ("adm", {"file": b.reference_content})


def test_the_content_of_an_encoders_weights_is_part_of_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    absent = LpipsEncoder(kind="lpips", weights=str(tmp_path / "vgg.pth"))
    assert absent.canonical() == {"kind": "lpips"}
    for name, text in (("a", b"0"), ("b", b"0"), ("c", b"1")):
        (tmp_path / name).write_bytes(text)
    a, b, c = (LpipsEncoder(kind="lpips", weights=str(tmp_path / n)).canonical() for n in "abc")
    assert a == b != c
    assert a != absent.canonical()


def test_weights_that_the_selection_does_not_use_are_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    monkeypatch.setattr(
        "diffusability.study.entries.encoder.content_digest", lambda file: read.append(str(file))
    )
    published(backbones="all")
    assert set(read) == {"/nowhere/inception.pth", "/nowhere/vgg16.pth"}
    read.clear()
    plan_of({"encoders": {"unused": {"kind": "lpips", "weights": "/nowhere/big.pth"}}})
    assert read == []


@pytest.mark.release
@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("raise RuntimeError('operator x::y does not exist')", "RuntimeError: operator x::y does"),
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("import os; os.abort()", "package lpips: is installed but does not import"),
    ],
)
def test_a_package_that_does_not_import_is_found_before_the_first_job(
    code: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cause is the first error of the chain, not what the package makes of it."""
    (tmp_path / "lpips.py").write_text(
        f"try:\n    {code}\nexcept Exception as e:\n    raise ImportError('something else') from e"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY}")
    monkeypatch.syspath_prepend(str(tmp_path))
    study = published(tokenizers=["conv-base"], backbones=["sit-a"])
    monkeypatch.setattr(needs, "find_spec", lambda name: name if name == "lpips" else None)
    assert list(broken_packages(study)) == ["lpips"]
    with pytest.raises(StudyError, match=cause):
        check_needs(study)


@pytest.mark.release
def test_diffusers_imports_beside_this_torch() -> None:
    """What `make test` installs: a torchvision without a compiled part for a torch without CUDA."""
    code = (
        "from diffusability.encoders.packages import import_extra\n"
        "import_extra('diffusers.models.autoencoders.autoencoder_kl', 'x').AutoencoderKL\n"
        "import_extra('timm', 'x').create_model"
    )
    pytest.importorskip("diffusers")
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
