"""Channels innermost in memory: another layout of the same training, exact through a checkpoint."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.study.core.spec import TrainSpec
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.reading.load import merge, read_yaml
from diffusability.study.reading.resolve import resolve_study
from diffusability.training.loop import Training
from diffusability.training.run import Batch, Losses, Phase, Run
from tests.conftest import REPOSITORY
from tests.unit.networks import conv

SMOKE = read_yaml(REPOSITORY / "studies" / "smoke.yaml")
IMAGES = torch.rand((32, 1, 8, 8), generator=torch.Generator().manual_seed(1)).double() * 2 - 1


def tokenizer(over: dict) -> Artifact:
    """Return the first tokenizer of the smoke study with `over` laid on its base's network."""
    study = resolve_study(merge(SMOKE, {"bases": {"conv-f2d4": {"network": over}}}), "test")
    return next(a for a in Plan(study) if a.stage == "tokenizer")


def training(state: Path, channels_last: bool) -> Training:
    """Return a training of six steps that has not begun."""
    network = conv(1, 4, 8, (1, 2), 1, 1, False)
    network.initialise(torch.Generator().manual_seed(0)).double()
    if channels_last:
        network.to(memory_format=torch.channels_last)

    def loss(batch: Batch) -> Losses:
        images = IMAGES[batch.picked]
        return Losses((network.decode(network.encode(images).mean) - images).abs().mean())

    spec = TrainSpec(steps=6, batch=8, lr=1e-3, ema=0.9)
    phase = Phase("l1", list(network.parameters()), loss)
    return Training(Run("toy", spec, {"net": network}, [phase], 32, 0, state, averaged="net"))


def finished(state: Path, channels_last: bool, stop: int | None = None) -> dict[str, Tensor]:
    """Return the averaged weights after six steps, interrupted after `stop` of them."""
    run = training(state, channels_last)
    if stop is not None:
        for _ in range(stop):
            run._take_step()
        run.save()
        run = training(state, channels_last)
        run.resume()
        assert run.step == stop
    run.go()
    return run.averaged.state_dict()


def test_it_renames_nothing_and_reaches_the_job() -> None:
    plain, laid_out = tokenizer({}), tokenizer({"channels_last": True})
    assert plain.fingerprint == laid_out.fingerprint
    assert Job.from_json(laid_out.job()).options["network"]["channels_last"] is True
    assert Job.from_json(plain.job()).options["network"]["channels_last"] is False


def test_it_is_the_same_training_up_to_rounding(tmp_path: Path) -> None:
    plain, laid_out = finished(tmp_path / "a", False), finished(tmp_path / "b", True)
    kernels = [w for w in laid_out.values() if w.dim() == 4 and w.shape[2] == 3]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels)
    assert not all(w.is_contiguous() for w in kernels)
    for key, value in plain.items():
        torch.testing.assert_close(laid_out[key], value, rtol=0, atol=1e-9, msg=key)


@pytest.mark.parametrize("channels_last", [False, True])
def test_stopped_and_resumed_it_ends_in_the_same_bits(tmp_path: Path, channels_last: bool) -> None:
    whole = finished(tmp_path / "whole", channels_last)
    parts = finished(tmp_path / "parts", channels_last, stop=3)
    for name, value in whole.items():
        assert torch.equal(parts[name], value), name
