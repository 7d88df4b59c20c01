"""The second paper's image experiments as studies: what is known of them is what they hold."""

import math

import pytest

from diffusability.study.entries.backbone import SiTBackbone, UNetBackbone
from diffusability.study.entries.network import VectorNetwork
from diffusability.study.entries.tokenizer import LevelTokenizer, LinearTokenizer
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study
from diffusability.study.study import Study
from tests.conftest import REPOSITORY

HALF = 0.5  # EDM's standard deviation of data; latents have 1, so its noise levels are doubled


@pytest.fixture(scope="module", params=["fisher_images", "ffhq64"])
def study(request) -> Study:
    return load_study(REPOSITORY / "studies" / f"{request.param}.yaml")


@pytest.fixture(scope="module")
def ffhq() -> Study:
    return load_study(REPOSITORY / "studies" / "ffhq64.yaml")


def dimensions(study: Study, name: str) -> int:
    """Return the numbers in a latent of a tokenizer."""
    spec = study.tokenizers[name]
    channels = spec.channels if not isinstance(spec, TokenizerSpec) else spec.network.channels
    return channels * (study.dataset.size // spec.factor) ** 2


def test_gpe_and_vae_share_architecture_and_optimizer(study: Study) -> None:
    gpe, vae = study.tokenizers["gpe"], study.tokenizers["vae"]
    assert isinstance(gpe, TokenizerSpec)
    assert isinstance(vae, TokenizerSpec)
    assert isinstance(gpe.network, VectorNetwork)
    assert gpe.network == vae.network
    for key in ("batch", "lr", "betas"):  # the GPE of the small study is trained for longer
        assert getattr(gpe.train, key) == getattr(vae.train, key)
    assert (gpe.cluster, vae.cluster) == ("gpe", "baseline")
    assert 0 < vae.objective.kl_warmup < vae.train.steps  # the weight of the KL grows
    controls = [n for n, t in study.tokenizers.items() if isinstance(t, LinearTokenizer)]
    same = {name for name in controls if study.tokenizers[name].factor > 1}
    assert {dimensions(study, name) for name in {"gpe", "vae", *same}} == {dimensions(study, "gpe")}
    assert {study.tokenizers[name].cluster for name in controls} >= {
        *("pixels", "pca", "projection"),
    }


def test_two_unconditional_edm_backbones_and_heun(study: Study) -> None:
    kinds = {type(backbone) for backbone in study.backbones.values()}
    assert kinds == {SiTBackbone, UNetBackbone}
    # the claims of the ledger know DiT and U-Net by these names
    assert [name.partition("-")[0] for name in study.backbones] == ["dit", "unet"]
    for backbone in study.backbones.values():
        assert backbone.process == "edm"
        assert not backbone.conditional
        assert backbone.edm is not None
        assert backbone.edm.sigma_data == 1.0
        assert backbone.latent_scale == "draws"  # of which the deviation is one
        relative = backbone.edm.log_sigma_mean + math.log(HALF)
        assert relative == pytest.approx(-1.2, abs=0.01)
        assert backbone.edm.log_sigma_std == 1.2
    assert study.sampling.solver == "heun"
    assert study.sampling.guidance == (1.0,)
    assert study.sampling.edm.rho == 7.0
    assert study.sampling.edm.churn == 0.0


def test_every_model_is_asked_and_every_encoder_measured(study: Study) -> None:
    plan = Plan(study)
    assert len(plan.of_stage("learned_fisher")) == len(plan.of_stage("diffusion"))
    assert len(plan.of_stage("geometry")) == len(plan.of_stage("latents"))
    assert study.metrics.fisher.reference == "pixels"
    assert study.metrics.fisher.learned is not None
    assert study.metrics.fisher.learned.split == "val"  # held out


def test_levels_come_from_one_training(study: Study) -> None:
    levels = [name for name in study.tokenizers if name.startswith("level-")]
    sides = [study.dataset.size // study.tokenizers[name].factor for name in levels]
    assert [name.removeprefix("level-") for name in levels] == [f"{s}x{s}" for s in sides]
    assert sides == sorted(sides, reverse=True)
    trained = [n for n in levels if not isinstance(study.tokenizers[n], LevelTokenizer)]
    assert trained == levels[:1]


def test_ffhq_is_what_is_known_of_it(ffhq: Study) -> None:
    assert ffhq.dataset.image_channels * ffhq.dataset.size**2 == 12288
    assert dimensions(ffhq, "pixels") == 12288
    gpe = ffhq.tokenizers["gpe"]
    assert isinstance(gpe, TokenizerSpec)
    assert isinstance(gpe.network, VectorNetwork)
    assert [gpe.network.width * m for m in gpe.network.multipliers] == [32, 64, 128, 256, 512]
    assert (gpe.train.batch, gpe.train.lr, gpe.train.betas) == (100, 1e-4, (0.5, 0.999))
    assert [dimensions(ffhq, f"level-{side}x{side}") for side in (32, 16, 8)] == [
        *(20480, 5120, 1280),
    ]
    for backbone in ffhq.backbones.values():
        assert (backbone.train.batch, backbone.train.betas) == (256, (0.9, 0.999))
        half_life = math.log(0.5) / math.log(backbone.train.ema or 0) * backbone.train.batch
        assert half_life == pytest.approx(500_000, rel=0.02)  # images
    unet = ffhq.backbones["unet"]
    assert isinstance(unet, UNetBackbone)
    assert (unet.width, unet.multipliers, unet.blocks) == (128, (1, 2, 2, 2), 4)
    levels = ffhq.sampling.edm
    assert (levels.sigma_min * HALF, levels.sigma_max * HALF) == (0.002, 80.0)
    assert ffhq.metrics.generation.extractor == "inception"


def test_every_number_that_is_not_known_is_marked(ffhq: Study) -> None:
    lines = (REPOSITORY / "studies" / "ffhq64.yaml").read_text().splitlines()
    for key in ("steps:", "factor: 8", "decoder_noise:", "size: B", "patch:", "evaluations:"):
        stating = [line for line in lines if f"    {key}" in line or f"  {key}" in line]
        stating = [line for line in stating if not line.lstrip().startswith("#")]
        assert stating, key
        for line in stating:
            assert "guess" in line or "source:" in line, line


def test_the_contrast_has_what_section_4_3_is_about() -> None:
    study = load_study(REPOSITORY / "studies" / "fisher_contrast.yaml")
    gpe, vae, ae = (study.tokenizers[name] for name in ("gpe", "vae", "ae"))
    assert gpe.network == vae.network == ae.network
    assert vae.train == ae.train
    assert vae.objective.kl > 0 == ae.objective.kl
    pixels = dimensions(study, "pixels")
    sizes = [dimensions(study, f"level-{side}x{side}") for side in (4, 8, 16)]
    gaps = [abs(math.log(n / pixels)) for n in sizes]
    # finer levels approach pixels in size, as the paper's
    assert gaps == sorted(gaps, reverse=True)
    assert len(set(gaps)) == 3
    assert {"distortion", "geometry", "fisher"} <= set(study.selected_metrics)
    assert len(Plan(study).of_stage("learned_fisher")) == 2 * 19
