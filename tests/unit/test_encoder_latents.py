"""Features of an encoder as latents: from a network that timm saved, or one of the study's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusability.data.digits import load_digits
from diffusability.data.images import to_float
from diffusability.encoders.packages import ensure_torchvision
from diffusability.encoders.vision import TimmModel
from diffusability.errors import StudyError
from diffusability.scoring.command import main
from diffusability.scoring.request import Request, requested_study
from diffusability.study.entries.encoder import TimmEncoder
from diffusability.study.entries.pixel_dataset import DigitsDataset
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.resolve import resolve_study
from diffusability.tokenizers.load import load_tokenizer
from tests.unit.study_run import plan_of, run_plan

SMALL = {"embed_dim": 48, "depth": 1, "num_heads": 3}
IMAGES = "kind: digits, size: 32"


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small vision transformer with random weights, which timm saved in the working directory."""
    monkeypatch.chdir(tmp_path)
    ensure_torchvision()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", **SMALL)
    timm.models.save_for_hf(network, "vit", model_args=SMALL)
    return network.eval()


def latents_of(plan: Plan) -> tuple[torch.Tensor, Path]:
    made = run_plan(plan, "latents")
    (artifact,) = plan.of_stage("latents")
    shards = sorted(Path("results/cache/latents", artifact.fingerprint).glob("shard-*.safetensors"))
    mean = torch.cat([load_file(path)["mean"] for path in shards])
    return mean, made[f"tokenizer/{artifact.name}"]


def test_patch_tokens_of_a_timm_network_are_latents(saved: Any) -> None:
    data = requested_study(Request([("encoder", "vit")], images=IMAGES, metrics=["velocity"]))
    assert data["encoders"]["vit"]["options"] == SMALL
    study = resolve_study(data, "test")
    mean, folder = latents_of(Plan(study))
    digits = load_digits(DigitsDataset(kind="digits", size=32))
    assert mean.shape == (len(digits.labels), 48, 2, 2)
    # the plain re-statement: timm's own forward pass of the image, normalised by its colours
    image = (to_float(digits.images[:2]) + 1) / 2  # (2, 1, 32, 32)
    image = ((image - 0.5) / 0.5).expand(-1, 3, -1, -1)
    saved.set_input_size((32, 32))
    with torch.no_grad():
        tokens = saved.forward_features(image)[:, 1:]  # (2, 4, 48), without the class token
    expected = tokens.transpose(1, 2).unflatten(2, (2, 2))
    torch.testing.assert_close(mean[:2].double(), expected.double(), rtol=1e-4, atol=1e-4)
    tokenizer = load_tokenizer(folder, digits, "cpu")
    with pytest.raises(StudyError, match="have no decoder"):
        tokenizer.decode(mean[:1])


@pytest.mark.parametrize(
    ("model", "mean"), [("vit_tiny_patch16_224", 0.5), ("vit_small_patch14_dinov2", 0.485)]
)
def test_images_are_normalised_as_timm_states_for_the_network(model: str, mean: float) -> None:
    pytest.importorskip("timm")
    entry = {"kind": "timm", "model": model, "weights": "w.safetensors"}
    facts = TimmModel(TimmEncoder.model_validate(entry)).facts
    assert facts.norm[0][0] == mean
    own = TimmEncoder.model_validate(entry | {"mean": [0.1, 0.2, 0.3]})
    assert TimmModel(own).facts.norm == ((0.1, 0.2, 0.3), facts.norm[1])


def test_a_vision_model_of_grey_images_is_refused_before_any_job() -> None:
    pytest.importorskip("timm")
    entry = "kind: timm, model: vit_tiny_patch16_224, weights: w, options: {in_chans: 1}"
    with pytest.raises(StudyError, match="takes images of 1 channels, and is given three"):
        requested_study(Request([("encoder", entry)], images="kind: digits, size: 16"))


def test_a_saved_network_of_grey_images_is_refused_before_any_job(saved: Any) -> None:
    config = json.loads(Path("vit/config.json").read_text())
    config["model_args"] = SMALL | {"in_chans": 1}
    Path("vit/config.json").write_text(json.dumps(config))
    with pytest.raises(StudyError, match="takes images of 1 channels"):
        requested_study(Request([("encoder", "vit")], images=IMAGES))


def test_what_an_encoder_can_be_measured_for(saved: Any) -> None:
    study = resolve_study(requested_study(Request([("", "vit")], images=IMAGES)), "test")
    measured = {artifact.stage for artifact in Plan(study).measured}
    assert {"velocity", "equivariance", "spatial"} <= measured
    assert study.left_out("vit") == {"reconstruction": "features of an encoder have no decoder"}


def test_an_encoder_that_the_study_trains_is_a_latent_space(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    entry = {"source": "encoder", "encoder": "glyph", "factor": 2, "channels": 32}
    over = {"tokenizers": {"seen": entry}, "select": {"tokenizers": ["seen"], "backbones": "all"}}
    with pytest.raises(StudyError, match=r"tokenizers\.seen: features of an encoder have no deco"):
        plan_of(over)
    data = requested_study(
        Request(
            [("encoder", "kind: supervised, width: 8, features: 16, train: {steps: 2, batch: 8}")],
            images="kind: digits, size: 8",
            metrics=["velocity"],
        )
    )
    assert data["tokenizers"]["encoder"]["channels"] == 16
    mean, _ = latents_of(Plan(resolve_study(data, "test")))
    assert mean.shape[1:] == (16, 4, 4)
    wrong = {**data, "tokenizers": {"encoder": data["tokenizers"]["encoder"] | {"channels": 8}}}
    with pytest.raises(StudyError, match=r"would be \(4, 8, 4, 4\); correct the entry"):
        latents_of(Plan(resolve_study(wrong, "test")))


def test_the_names_of_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("seen_encoder.py").write_text(
        "import torch\n"
        "class Seen(torch.nn.Module):\n"
        "    def forward(self, x): return x.repeat(1, 8, 1, 1)[:, :, ::4, ::4]\n"
    )

    def request(name: str, images: str = IMAGES) -> dict[str, Any]:
        return requested_study(Request([("encoder", name)], images=images))

    published = request("dinov2-b", "kind: shapes, size: 32")["tokenizers"]["dinov2-b"]
    assert published == {"source": "encoder", "encoder": "dinov2-b", "factor": 16, "channels": 768}
    unnamed = Request([("", "dinov2-b")], images="kind: shapes, size: 32")
    assert "dinov2-b" in requested_study(unnamed)["encoders"]  # a model's name needs no option
    own = request("seen_encoder:Seen")
    assert own["encoders"]["seen"]["features"] == 8
    assert own["tokenizers"]["seen"]["factor"] == 4
    Path("empty").mkdir()
    Path("headless").mkdir()
    Path("headless/config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"}))
    for name, reason in (
        ("dinov9-b", "is no vision model .*dinov3-b"),
        ("empty", "there is no config.json with the `architecture`"),
        ("headless", "there is no model.safetensors or pytorch_model.bin"),
        ("kind: lpips, weights: x", "kind lpips has no feature map"),
        ("kind: visoin", "kind"),
    ):
        with pytest.raises(StudyError, match=reason):
            request(name)
    with pytest.raises(StudyError, match="name the images"):
        main(["--encoder", "dinov2-b", "--write", "s.yaml"])
