"""Values that are not finite stop where they arise, with what made them and how many."""

from pathlib import Path

import pytest
import torch

from diffusability.data.images import to_uint8
from diffusability.diffusion.load import load_diffusion
from diffusability.encoders.load import load_encoder
from diffusability.errors import MeasurementError
from diffusability.tokenizers.load import load_tokenizer
from tests.unit.study_run import plan_of, run_plan


def test_not_a_number_is_not_black() -> None:
    images = torch.zeros(4, 3, 2, 2)
    images[1, 0, 0, 0], images[3, 2] = torch.nan, torch.inf
    with pytest.raises(MeasurementError, match=r"^reconstructions: 2 of 4 .*first \[1, 3\]"):
        to_uint8(images, "reconstructions")


@pytest.mark.parametrize(
    ("layer", "stage", "what"),
    [
        ("encode", "latents", "latents of results/tokenizer/conv-base/s0/"),
        ("decode", "reconstruction", "reconstructions of results/tokenizer/conv-base/s0/"),
        ("decode", "samples", "decoded samples of results/tokenizer/conv-base/s0/"),
        ("features", "reconstruction", "features of results/encoder/judge/"),
        ("diffusion", "samples", "samples of results/diffusion/conv-base/s0/sit-a/s0/"),
    ],
)
def test_a_network_of_broken_weights_is_named(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, layer: str, stage: str, what: str
) -> None:
    # a shifted sampler records no trajectory, which would refuse its steps first
    plan = plan_of({"select": {"tokenizers": ["conv-base"]}, "sampling": {"shift": 2}})
    before = {"latents": "tokenizer", "reconstruction": "latents", "samples": "diffusion"}[stage]
    run_plan(plan, before, "encoder")

    def broken(network):
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if layer in ("features", "diffusion") or name.startswith(layer):
                    weight.fill_(torch.nan)
        return network

    if layer == "diffusion":
        monkeypatch.setattr(
            "diffusability.stages.samples.load_diffusion",
            lambda *given: broken(load_diffusion(*given)),
        )
    elif layer == "features":
        monkeypatch.setattr(
            "diffusability.stages.inputs.load_encoder", lambda *given: broken(load_encoder(*given))
        )
    else:
        monkeypatch.setattr(
            "diffusability.stages.inputs.load_tokenizer",
            lambda *given: broken(load_tokenizer(*given)),
        )
    with pytest.raises(MeasurementError, match=f"^{what}.* are not finite"):
        run_plan(plan, stage)
