"""Networks that a score names on the Hugging Face hub; its client is replaced."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from diffusability.errors import StudyError
from diffusability.scoring.hub import autoencoder_folder, download_vision_models
from diffusability.scoring.request import Request, requested_study
from diffusability.study.entries.vision_models import FACTS, cached_repository, cached_weights

TINY = {
    "_class_name": "AutoencoderTiny",
    "encoder_block_out_channels": [8, 8],
    "latent_channels": 3,
}


class Hub:
    """A hub with some repositories, which writes its cache as the client does."""

    def __init__(self, repositories: Mapping[str, Mapping[str, str]]) -> None:
        self.repositories, self.given = repositories, []

    def model_info(self, name: str, timeout: float, files_metadata: bool) -> SimpleNamespace:
        assert files_metadata
        if name not in self.repositories:
            raise RuntimeError("404 Client Error.\n\nRepository Not Found")
        files = self.repositories[name].items()
        sizes = [SimpleNamespace(rfilename=file, size=len(content)) for file, content in files]
        return SimpleNamespace(siblings=sizes)

    def download(self, name: str, file: str) -> None:
        self.given.append(file)
        folder = cached_repository(name).parents[1]
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text("abc")
        path = cached_repository(name) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        blob = folder / "blobs" / file.replace("/", "-")  # links lead to them, as the client's do
        blob.parent.mkdir(exist_ok=True)
        blob.write_text(self.repositories[name][file])
        path.unlink(missing_ok=True)
        path.symlink_to(blob)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    config, weights = json.dumps(TINY), "diffusion_pytorch_model.safetensors"
    half = "diffusion_pytorch_model.fp16.safetensors"
    found = Hub(
        {
            "me/vae": {
                "README.md": "",
                "config.json": config,
                weights: "12",
                "other.safetensors": "",
            },
            "me/half": {"config.json": config, half: "1"},
            "me/pipeline": {
                "whole.safetensors": "123456789",
                f"unet/{weights}": "1234",
                "vae/config.json": config,
                f"vae/{weights}": "12",
                f"vae/{half}": "1",
            },
            "me/pickled": {"config.json": config, "diffusion_pytorch_model.bin": ""},
            "me/language": {
                "config.json": "{}",
                "diffusion_pytorch_model.safetensors": "123456789",
            },
            "me/words": {"README.md": ""},
            FACTS["dinov2-b"].hub: {"model.safetensors": "123", "model.bin": "123"},
        }
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", found.download)
    return found


def test_only_the_files_of_the_autoencoder_are_downloaded_and_once(hub: Hub, capsys) -> None:
    weights, half = (f"diffusion_pytorch_model{kind}.safetensors" for kind in ("", ".fp16"))
    for name, files in (
        ("me/vae", ["config.json", weights]),
        ("me/half", ["config.json", half]),
        ("me/pipeline", ["vae/config.json", f"vae/{weights}"]),
    ):
        for times in (1, 0):
            hub.given.clear()
            folder = autoencoder_folder(name)
            assert hub.given == files * times
            assert f"{name}: downloading" in capsys.readouterr().err or not times
        assert folder == (cached_repository(name) / files[0]).parent


def test_a_download_that_was_interrupted_goes_on(hub: Hub) -> None:
    hub.download("me/vae", "config.json")
    assert (autoencoder_folder("me/vae") / "diffusion_pytorch_model.safetensors").is_file()


def test_an_autoencoder_of_the_hub_is_named_as_there(hub: Hub) -> None:
    for kind in ("", "vae"):
        request = Request(items=[(kind, "me/vae")], images="kind: digits, size: 8")
        (entry,) = requested_study(request)["tokenizers"].values()
        path = str(cached_repository("me/vae"))
        assert entry == {"source": "diffusers", "path": path, "factor": 2, "channels": 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "me/absent",
            r"did not give it \(404 Client Error. Repository Not Found\)",
        ),
        ("me/words", "no config.json, which diffusers saves"),
        ("me/pickled", "no weights as safetensors"),
        ("me/language", "names no class of diffusers"),
    ],
)
def test_what_the_hub_does_not_give_is_said_in_a_sentence(
    hub: Hub, name: str, message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        requested_study(Request(items=[("", name)], images="kind: digits, size: 8"))
    assert hub.given in ([], ["config.json"])  # no weights


def test_weights_of_vision_models_are_downloaded_where_none_are_named(hub: Hub, capsys) -> None:
    named = {"kind": "vision", "model": "dinov2-b", "weights": "w.safetensors"}
    download_vision_models([named, {"kind": "supervised"}, {"kind": "timm", "model": "vit_tiny"}])
    assert hub.given == []
    for _ in range(2):
        download_vision_models([{"kind": "vision", "model": "dinov2-b"}])
    assert hub.given == ["model.safetensors"]
    assert cached_weights(FACTS["dinov2-b"].hub).is_file()
    with pytest.raises(StudyError, match="did not give it"):
        download_vision_models([{"kind": "vision", "model": "mae-l"}])
