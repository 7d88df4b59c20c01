"""Published autoencoders of diffusers: conventions, what is refused, and a whole study on one."""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusability.data.digits import load_digits
from diffusability.encoders.packages import ensure_torchvision
from diffusability.errors import ArtifactError, StudyError
from diffusability.report.methods import grey_repeated
from diffusability.study.entries.pixel_dataset import DigitsDataset
from diffusability.study.entries.tokenizer import ExternalTokenizer
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.sources.image_channels import channels_misfit
from diffusability.tokenizers.external import (
    ExternalAutoencoder,
    import_autoencoder,
    latent_convention,
    latent_shape,
    load_autoencoder,
)
from diffusability.tokenizers.load import load_tokenizer
from diffusability.tokenizers.posterior import LOGVAR_RANGE
from tests.unit.study_run import measurements, plan_of, run_plan


@pytest.fixture(scope="module")
def diffusers() -> Any:
    """The package, which the `paper` extra installs."""
    pytest.importorskip("diffusers", reason="diffusers is of the `paper` extra")
    with contextlib.suppress(ModuleNotFoundError):  # diffusers does without
        ensure_torchvision()
    import diffusers

    return diffusers


def small_kl(diffusers: Any, **changes: Any) -> Any:
    """A random AutoencoderKL of factor 2 with 4 latent channels for grey images."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "in_channels": 1,
        "out_channels": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "norm_num_groups": 2,
        "latent_channels": 4,
        "scaling_factor": 0.5,
        "shift_factor": 0.25,
    }
    return diffusers.AutoencoderKL(**(options | changes)).eval()


def small_dc(diffusers: Any) -> Any:
    """A random AutoencoderDC of factor 2 with 4 latent channels for grey images."""
    torch.manual_seed(0)
    return diffusers.AutoencoderDC(
        in_channels=1,
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.4,
    ).eval()


def small_tiny(diffusers: Any) -> Any:
    """A random AutoencoderTiny of factor 2 with 4 latent channels for grey images."""
    torch.manual_seed(0)
    return diffusers.AutoencoderTiny(
        in_channels=1,
        out_channels=1,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        scaling_factor=0.3,
    ).eval()


def small_rae(diffusers: Any) -> Any:
    """A random AutoencoderRAE of 8 x 8 colour images, 2 x 2 latents of 64 channels."""
    pytest.importorskip("transformers", reason="its encoder is of transformers")
    torch.manual_seed(0)
    return diffusers.AutoencoderRAE(
        encoder_hidden_size=64,
        encoder_num_hidden_layers=1,
        encoder_input_size=28,
        patch_size=4,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        scaling_factor=0.5,
        latents_mean=torch.full((64, 1, 1), 0.1),
        latents_std=torch.full((64, 1, 1), 2.0),
    ).eval()


def small_vq(diffusers: Any) -> Any:
    """A random VQModel, of which no configuration key states the factor: 2, with 4 channels."""
    torch.manual_seed(0)
    return diffusers.VQModel(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=2,
        latent_channels=4,
        num_vq_embeddings=8,
        scaling_factor=0.5,
    ).eval()


def small_asymmetric(diffusers: Any) -> Any:
    """A random AsymmetricAutoencoderKL of factor 2 with 4 latent channels, with posteriors."""
    torch.manual_seed(0)
    return diffusers.AsymmetricAutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        down_block_out_channels=(8, 8),
        up_block_types=("UpDecoderBlock2D",) * 2,
        up_block_out_channels=(8, 8),
        norm_num_groups=2,
        scaling_factor=0.5,
    ).eval()


def entry(path: Path, **changes: Any) -> ExternalTokenizer:
    """The study's entry of a folder."""
    values = {"source": "diffusers", "path": str(path), "factor": 2, "channels": 4}
    return ExternalTokenizer.model_validate(values | changes)


def imported(network: Any, tmp_path: Path) -> ExternalAutoencoder:
    """Save a network, import it, delete what was saved, and load the import."""
    source, folder = tmp_path / "published", tmp_path / "artifact"
    network.save_pretrained(source)
    folder.mkdir()
    import_autoencoder(entry(source), folder)
    shutil.rmtree(source)
    return load_autoencoder(folder, image_channels=1)


IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_kl_is_shifted_and_scaled_as_its_folder_says(diffusers: Any, tmp_path: Path) -> None:
    network = small_kl(diffusers)
    tokenizer = imported(network, tmp_path)
    assert (tokenizer.factor, tokenizer.latent_channels, tokenizer.image_channels) == (2, 4, 1)
    raw = network.encode(IMAGES).latent_dist
    posterior = tokenizer.encode(IMAGES)
    assert posterior.mean.shape == (3, 4, 4, 4)
    torch.testing.assert_close(posterior.mean, (raw.mean - 0.25) * 0.5)
    # the variance of 0.5 z is a quarter of that of z
    torch.testing.assert_close(posterior.logvar.exp(), raw.var / 4)
    torch.testing.assert_close(tokenizer.decode(posterior.mean), network.decode(raw.mean).sample)


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "output", "scale"), [(small_dc, "latent", 0.4), (small_tiny, "latents", 0.3)]
)
def test_a_deterministic_autoencoder_has_no_posterior_variance(
    diffusers: Any, tmp_path: Path, make: Any, output: str, scale: float
) -> None:
    network = make(diffusers)
    tokenizer = imported(network, tmp_path)
    assert (tokenizer.factor, tokenizer.latent_channels) == (2, 4)
    raw = getattr(network.encode(IMAGES), output)
    posterior = tokenizer.encode(IMAGES)
    torch.testing.assert_close(posterior.mean, raw * scale)
    assert (posterior.logvar == LOGVAR_RANGE[0]).all()
    sample = posterior.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(sample, posterior.mean, rtol=0, atol=2e-6)
    torch.testing.assert_close(tokenizer.decode(posterior.mean), network.decode(raw).sample)
    assert tokenizer.encode(IMAGES[:, :, :6, :4]).mean.shape == (3, 4, 3, 2)  # any whole grid


@torch.no_grad()
@pytest.mark.parametrize(("make", "deterministic"), [(small_vq, True), (small_asymmetric, False)])
def test_a_class_that_is_not_listed_is_asked_for_the_shape_of_its_latents(
    diffusers: Any, tmp_path: Path, make: Any, deterministic: bool
) -> None:
    network = make(diffusers)
    network.save_pretrained(tmp_path / "saved")
    assert latent_shape(str(tmp_path / "saved"), 8) == (2, 4)
    tokenizer = imported(network, tmp_path)
    encoded = network.encode(IMAGES)
    raw = encoded.latents if deterministic else encoded.latent_dist.mean
    torch.testing.assert_close(tokenizer.encode(IMAGES).mean, raw * 0.5)
    torch.testing.assert_close(tokenizer.decode(raw * 0.5), network.decode(raw).sample)


@torch.no_grad()
def test_a_representation_autoencoder_takes_its_own_range_and_size(
    diffusers: Any, tmp_path: Path
) -> None:
    network = small_rae(diffusers)
    network.save_pretrained(tmp_path / "saved")
    assert latent_shape(str(tmp_path / "saved"), 8) == (4, 64)
    with pytest.raises(StudyError, match="takes images of 8 pixels, these have 16; .* --size 8"):
        latent_shape(str(tmp_path / "saved"), 16)
    (tmp_path / "artifact").mkdir()
    import_autoencoder(entry(tmp_path / "saved", factor=4, channels=64), tmp_path / "artifact")
    tokenizer = load_autoencoder(tmp_path / "artifact", image_channels=3)
    images = IMAGES.expand(3, 3, 8, 8)
    found = tokenizer.encode(images).mean
    assert found.shape == (3, 64, 2, 2)
    unit = (images + 1) / 2  # diffusers documents [0, 1], and scales its latents itself
    torch.testing.assert_close(found, network.encode(unit).latent)
    torch.testing.assert_close(tokenizer.decode(found), 2 * network.decode(found).sample - 1)
    with pytest.raises(StudyError, match="takes images of 8 pixels"):
        tokenizer.encode(torch.zeros(1, 3, 16, 16))


def test_an_autoencoder_of_videos_is_refused_in_a_sentence(diffusers: Any, tmp_path: Path) -> None:
    config = {"_class_name": "AutoencoderKLWan", "base_dim": 4, "z_dim": 4, "num_res_blocks": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StudyError, match="AutoencoderKLWan: does not encode images"):
        latent_shape(str(tmp_path), 8)


def test_the_convention_of_every_channel() -> None:
    config = {"_class_name": "AutoencoderKL", "latent_channels": 2, "scaling_factor": 3.0}
    shift, scale = latent_convention(config | {"latents_mean": [1.0, 2.0], "latents_std": [2, 6]})
    assert shift.tolist() == [1.0, 2.0]
    assert scale.tolist() == [1.5, 0.5]
    shift, scale = latent_convention(config | {"shift_factor": None})
    assert shift.tolist() == [0.0, 0.0]
    assert scale.tolist() == [3.0, 3.0]
    with pytest.raises(StudyError, match="scaled by"):
        latent_convention(config | {"scaling_factor": 0.0})


@torch.no_grad()
def test_half_precision_is_widened(diffusers: Any, tmp_path: Path) -> None:
    network = small_kl(diffusers).half()
    network.save_pretrained(tmp_path / "published", variant="fp16")
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    import_autoencoder(entry(tmp_path / "published"), artifact)
    weights = load_file(artifact / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    name = "encoder.conv_in.weight"
    assert torch.equal(weights[name], network.state_dict()[name].float())
    assert str(tmp_path) not in (artifact / "config.json").read_text()
    posterior = load_autoencoder(artifact, image_channels=1).encode(IMAGES)
    assert posterior.mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": 4}, r"says factor 4, channels 4, .* holds one of factor 2, channels 4"),
        ({"channels": 8}, "says factor 2, channels 8"),
    ],
)
def test_an_entry_that_says_otherwise_is_refused(
    diffusers: Any, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    small_kl(diffusers).save_pretrained(tmp_path)
    with pytest.raises(StudyError, match=message):
        import_autoencoder(entry(tmp_path, **changes), tmp_path)


def _drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _truncate_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _other_class(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))


def _no_class(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def _newer_class(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderOfTomorrow"}))


def _drop_weights(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink()


def _truncate_weights(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 20)


def _drop_layer(folder: Path) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["encoder.conv_in.weight"]
    save_file(weights, file, {"format": "pt"})


def _break_weight(folder: Path) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_out.weight"].view(-1)[3] = torch.nan
    save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_config, "there is no .*config.json"),
        (_truncate_config, "is not JSON"),
        (_other_class, "UNet2DModel of diffusers has no encode and decode; .* AutoencoderRAE"),
        (_no_class, "names no class of diffusers"),
        (_newer_class, "has no class AutoencoderOfTomorrow; a newer one may"),
        (_drop_weights, r"no \*\.safetensors in"),
        (_truncate_weights, "cannot be read"),
        (_drop_layer, "do not fit .*encoder.conv_in.weight"),
        (_break_weight, "1 of .* tensors are not finite .first decoder.conv_out.weight"),
    ],
)
def test_a_damaged_folder_is_named(
    diffusers: Any, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    small_kl(diffusers).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises((ArtifactError, StudyError), match=message):
        import_autoencoder(entry(tmp_path), tmp_path)


@torch.no_grad()
def test_a_colour_autoencoder_takes_grey_images_as_three_equal_channels(
    diffusers: Any, tmp_path: Path
) -> None:
    network = small_kl(diffusers, in_channels=3, out_channels=3)
    tokenizer = imported(network, tmp_path)
    assert tokenizer.image_channels == 1
    raw = network.encode(IMAGES.expand(-1, 3, -1, -1)).latent_dist.mean
    mean = tokenizer.encode(IMAGES).mean
    torch.testing.assert_close(mean, (raw - 0.25) * 0.5)
    decoded = network.decode(raw).sample.mean(dim=1, keepdim=True)
    torch.testing.assert_close(tokenizer.decode(mean), decoded)
    with pytest.raises(StudyError, match="have 1 channels, the network was built for 3"):
        load_autoencoder(tmp_path / "artifact", image_channels=3).encode(IMAGES)


def test_a_grey_autoencoder_is_refused_colour_images_before_any_job(tmp_path: Path) -> None:
    assert channels_misfit(1, 1) == channels_misfit(3, 3) == channels_misfit(3, 1) == ""
    for taken, given in ((1, 3), (4, 3)):
        assert channels_misfit(taken, given)
    spec = ExternalTokenizer(source="diffusers", path=str(tmp_path), factor=2, channels=4)
    for text, misfits in (
        (None, False),  # a folder that is not there is named elsewhere
        ("[", False),
        ("{}", False),  # of diffusers' own three channels
        ('{"in_channels": 1}', True),
        ('{"num_channels": 1}', True),
        ('{"in_channels": 3}', False),
    ):
        if text is not None:
            (tmp_path / "config.json").write_text(text)
        found = dict(spec.misfits(8, 3))
        assert list(found) == ["path"] * misfits
        assert ("takes grey images" in found.get("path", "")) == misfits
    data = {
        "name": "grey",
        "datasets": {"s": {"kind": "shapes", "size": 16}},
        "tokenizers": {
            "vae": {"source": "diffusers", "path": str(tmp_path), "factor": 2, "channels": 4}
        },
        "metrics": {"smoothness": {}},
        "select": {"dataset": "s"},
    }
    assert not grey_repeated(resolve_study(data, "test"))
    data["datasets"] = {"s": {"kind": "digits", "size": 8}}
    sentence = grey_repeated(resolve_study(data, "test"))
    assert sentence.startswith("vae: grey images are encoded as three equal channels")
    (tmp_path / "config.json").write_text('{"in_channels": 1}')
    data["datasets"] = {"s": {"kind": "shapes", "size": 16}}
    with pytest.raises(StudyError, match="tokenizers.vae.path: .*takes grey images"):
        resolve_study(data, "test")


def test_the_extra_is_named_where_the_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(StudyError, match=r"`diffusers` does not import .* `paper` extra"):
        import_autoencoder(entry(tmp_path), tmp_path)


@pytest.mark.release
@pytest.mark.parametrize("make", [small_kl, small_dc])
def test_a_study_of_a_published_autoencoder(diffusers: Any, make: Any, workplace: Path) -> None:
    make(diffusers).save_pretrained(workplace / "published")
    published = {"source": "diffusers", "path": "published", "factor": 2, "channels": 4}
    plan = plan_of({"tokenizers": {"own": published}, "select": {"tokenizers": ["own"]}})
    made = run_plan(plan, "tokenizer")
    shutil.rmtree(workplace / "published")  # the artifact holds all that is needed
    made |= run_plan(plan, *[a.stage for a in plan if a.stage not in ("tokenizer", "encoder")])
    folder = made["tokenizer/own/s0"]
    assert (folder / "history.csv").read_text() == "step\n"
    assert json.loads((folder / "config.json").read_text())["latent_channels"] == 4
    data = load_digits(DigitsDataset(kind="digits", size=8))
    assert isinstance(load_tokenizer(folder, data, "cpu"), ExternalAutoencoder)
    cells = measurements(made["equivariance/own/s0"])
    assert cells["equivariance.rotate_error"]["value"] > 0
    cells = measurements(made["reconstruction/own/s0"])
    if make is small_dc:
        assert cells["reconstruction.kl"]["value"] is None
        assert "deterministic" in cells["reconstruction.kl"]["flags"][0]
        assert cells["reconstruction.posterior_variance_share"]["value"] == 0
    else:
        assert cells["reconstruction.kl"]["value"] > 0
        assert cells["reconstruction.posterior_variance_share"]["value"] > 1e-10
    assert (
        measurements(made["generation/own/s0/sit-a/s0/guidance1"])["generation.fd_judge"]["value"]
        > 0
    )
