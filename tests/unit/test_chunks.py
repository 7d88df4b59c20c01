"""Networks take few large images at once, and small ones in the batches that were read."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import to_float, to_uint8
from diffusability.latents.shards import Encode
from diffusability.nn.chunks import chunks
from diffusability.stages.features import Extractor
from diffusability.stages.inputs import Inputs, _encode_with
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.posterior import Posterior

SIZES = {32: 1024, 64: 256, 128: 64, 256: 16, 512: 4, 1024: 1, 2048: 1}  # images at once by side


class Counting:
    """A tokenizer and an encoder that know how many images they were given at once."""

    factor = 8

    def __init__(self) -> None:
        self.given: list[int] = []

    def encode(self, images: Tensor) -> Posterior:
        self.given.append(len(images))
        mean = images[:, :, ::8, ::8]
        return Posterior(mean, mean - 1)

    def decode(self, latents: Tensor) -> Tensor:
        self.given.append(len(latents))
        return latents.repeat_interleave(8, 2).repeat_interleave(8, 3)

    def features_and_spatial(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.given.append(len(images))
        return images[:, :, 0, 0], images[:, 0, 0, :2]

    def logits(self, features: Tensor) -> Tensor:
        return features[:, :0]


def inputs_of(network: Counting) -> Inputs:
    job = SimpleNamespace(device="cpu", upstream={"tokenizer": {"path": "results/t"}})
    inputs = Inputs(cast(Job, job))
    inputs.__dict__["tokenizer"] = network
    return inputs


@pytest.mark.parametrize("side", SIZES)
def test_a_network_takes_about_as_many_pixels_at_once(side: int) -> None:
    images = torch.zeros(1, 1, 1, 1).expand(1025, 3, side, side)
    latents = torch.zeros(1, 1, 1, 1).expand(1025, 4, side // 8, side // 8)
    sizes = [len(part) for part in chunks(images)]
    assert sizes[0] == SIZES[side]
    assert sum(sizes) == 1025
    assert [len(part) for part in chunks(latents, side**2)] == sizes


@pytest.mark.parametrize(("side", "given"), [(512, [4, 1]), (64, [5])])
def test_every_use_of_a_frozen_network_goes_in_chunks(side: int, given: list[int]) -> None:
    whole = torch.randint(0, 256, (5, 1, side // 8, side // 8), dtype=torch.uint8)
    images = whole.repeat_interleave(8, 2).repeat_interleave(8, 3)  # (5, 1, S, S)
    pixels, network = to_float(images), Counting()
    inputs = inputs_of(network)
    expected = pixels[:, :, ::8, ::8]
    encode: Encode = _encode_with(cast(Tokenizer, network), torch.device("cpu"), "latents")
    for mean, logvar in (encode(pixels), inputs.encode(pixels)):
        assert torch.equal(mean, expected)
        assert torch.equal(logvar, expected - 1)
    assert torch.equal(inputs.decode(expected, "samples"), to_uint8(pixels))
    extracted: Any = SimpleNamespace(
        device=torch.device("cpu"),
        data=SimpleNamespace(images=images),
        encoder=lambda role: network,
        of=lambda what, role: what,
    )
    found = Extractor(extracted, "judge")(images)
    assert torch.equal(found.vectors, pixels[:, :, 0, 0])
    assert network.given == given * 4


def test_a_batch_that_goes_at_once_keeps_its_layout() -> None:
    images = torch.randn(1, 8, 8, 3).permute(0, 3, 1, 2)
    mean, _ = inputs_of(Counting()).encode(images)
    assert mean.stride() == images[:, :, ::8, ::8].stride()
