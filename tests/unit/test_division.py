"""Batches that are cut, over steps in time or over processes, train the same network."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from diffusability.errors import TrainingError
from diffusability.training.batches import BatchOrder
from diffusability.training.checkpoint import CURRENT, load_checkpoint
from diffusability.training.compilation import compiler_errors
from diffusability.training.distributed import Processes, joined
from diffusability.training.loop import Training, train
from diffusability.training.run import Batch, Losses, Phase, Run
from tests.conftest import REPOSITORY
from tests.unit.small_diffusion import NETWORKS, assert_same, small_run, weights

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def in_two_processes(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Train the small run with torchrun and gloo, in `folder`."""
    return subprocess.run(
        [*TORCHRUN, "-m", "tests.unit.small_diffusion", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_is_the_whole_batch_up_to_rounding(
    tmp_path: Path, network: str, parts: int
) -> None:
    whole = train(small_run(tmp_path / "whole", network, torch.float64))
    cut = train(small_run(tmp_path / "cut", network, torch.float64, accumulation=parts))
    expected, found = weights(whole), weights(cut)
    start = weights(Training(small_run(tmp_path / "start", network, torch.float64)))
    moved = max((expected[name] - start[name]).abs().max().item() for name in expected)
    assert moved > 0.01  # else equality says nothing
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-9, msg=name)
    for a, b in zip(whole.history, cut.history, strict=True):
        assert a == pytest.approx(b, rel=1e-5)  # losses are logged in float32


@pytest.mark.release
def test_two_processes_equal_two_parts_to_the_bit(tmp_path: Path) -> None:
    result = in_two_processes(tmp_path, *NETWORKS, "--cut", "edm")
    assert result.returncode == 0, result.stderr
    for network in NETWORKS:
        expected = train(small_run(tmp_path / "alone" / network, network, accumulation=2))
        for rank in (0, 1):
            assert_same(load_file(tmp_path / f"{network}-{rank}.safetensors"), weights(expected))
    cut = [load_file(tmp_path / f"edm-cut-{rank}.safetensors") for rank in (0, 1)]
    assert_same(*cut)
    expected = weights(train(small_run(tmp_path / "cut", "edm", torch.float64, accumulation=4)))
    for name, value in expected.items():  # four parts, added as (a + b) + (c + d)
        torch.testing.assert_close(cut[0][name], value, rtol=0, atol=1e-9, msg=name)


@pytest.mark.release
def test_two_compiled_processes_of_two_parts_are_the_whole_batch(tmp_path: Path) -> None:
    """As the paper's study trains: compiled, several parts per process."""
    networks = ("sit", "lightningdit")
    result = in_two_processes(tmp_path, "--compiled", *networks)
    assert result.returncode == 0, result.stderr
    for network in networks:
        run = small_run(tmp_path / "whole" / network, network, torch.float64)
        expected = weights(train(run))
        for rank in (0, 1):
            found = load_file(tmp_path / f"{network}-compiled-{rank}.safetensors")
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9, msg=name)


@pytest.mark.release
def test_two_processes_stop_together_and_one_goes_on(tmp_path: Path) -> None:
    result = in_two_processes(tmp_path, "sit", "--minutes", "0")
    assert result.returncode != 0
    assert "time is up; saved step 1 of 9 in sit" in result.stderr
    checkpoint = load_checkpoint(tmp_path / "sit")
    assert checkpoint is not None
    assert checkpoint.step == 1
    resumed = train(small_run(tmp_path / "sit", accumulation=2))
    assert_same(weights(resumed), weights(train(small_run(tmp_path / "whole", accumulation=2))))


def test_shares_cover_the_batch_once() -> None:
    for count, accumulation in [(1, 1), (1, 3), (2, 3), (4, 2)]:
        batch = torch.arange(24)
        parts = [
            batch[part]
            for rank in range(count)
            for part in Processes(rank, count).share(24, accumulation)
        ]
        assert torch.equal(torch.cat(parts), batch)
        assert {len(part) for part in parts} == {24 // (count * accumulation)}


def test_every_part_draws_what_the_whole_batch_draws(tmp_path: Path) -> None:
    seen: dict[int, list[Batch]] = {}

    def loss_at(run: Run, batch: Batch) -> Losses:
        seen.setdefault(batch.step, []).append(batch)
        draws = torch.rand(8, generator=batch.generator)[batch.part]
        return Losses(run.modules["diffusion"].mean.sum() * 0 + weight * draws.mean())

    weight = torch.nn.Parameter(torch.ones(()))
    base = small_run(tmp_path, accumulation=4, steps=2)
    run = Run(
        name="draws",
        spec=base.spec,
        modules={"diffusion": base.modules["diffusion"]},
        phases=[Phase("p", [weight], lambda batch: loss_at(base, batch), divisible=True)],
        images=22,
        seed=3,
        state=tmp_path,
    )
    training = train(run)
    order = BatchOrder(22, 8, 3)
    for step in (0, 1):
        picked = torch.cat([batch.picked for batch in seen[step]])
        assert torch.equal(picked, order.indices(step))
    calls = [*seen[0], *seen[1]]
    for batch, following in zip(calls, [*calls[1:], None], strict=True):
        if following is None:
            assert batch.upcoming is None
        else:
            assert batch.upcoming is not None
            assert torch.equal(batch.upcoming, following.picked)
    assert len(training.history) == 2


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    run = small_run(tmp_path, accumulation=2)
    whole = Phase("autoencoder", run.phases[0].parameters, run.phases[0].loss)
    parts = {**vars(run), "phases": [whole]}
    with pytest.raises(TrainingError, match="the loss autoencoder needs its whole batch at once"):
        train(Run(**parts))
    three = {**vars(run), "processes": Processes(0, 3)}
    with pytest.raises(TrainingError, match="batch 8 cannot be cut into 6 equal parts"):
        train(Run(**three))


def test_bad_loss_of_one_part_stops_before_the_step(tmp_path: Path) -> None:
    run = small_run(tmp_path, accumulation=4)
    before = {k: v.clone() for k, v in run.modules["diffusion"].state_dict().items()}

    def loss(batch: Batch) -> Losses:
        losses = run.phases[0].loss(batch)
        assert losses is not None
        return Losses(losses.total * (math.nan if batch.part.start == 4 else 1), losses.terms)

    phases = [Phase("loss", run.phases[0].parameters, loss, divisible=True)]
    with pytest.raises(TrainingError, match="not finite at step 0"):
        train(Run(**{**vars(run), "phases": phases}))
    assert_same(before, dict(run.modules["diffusion"].state_dict()))


def test_only_the_leader_writes_checkpoints(tmp_path: Path) -> None:
    for rank, leads in [(1, False), (0, True)]:
        run = {**vars(small_run(tmp_path)), "processes": Processes(rank, 2)}
        Training(Run(**run)).save()
        assert (tmp_path / CURRENT).exists() == leads


def test_a_lost_process_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object, **named: object) -> None:
        raise RuntimeError("[pair.cc:553] Connection closed by peer")

    monkeypatch.setattr("torch.distributed.barrier", broken)
    monkeypatch.setattr("torch.distributed.all_reduce", broken)
    together = Processes(1, 2)
    cpu, number = torch.device("cpu"), torch.zeros(1)
    for wait in (together.wait, lambda: together.any(False, cpu), lambda: together.add([number])):
        with pytest.raises(TrainingError, match="another process of this training ended"):
            wait()


def test_a_lone_process_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as together:
        assert (together.rank, together.count, together.leads) == (0, 1, True)
        assert together.any(True, torch.device("cpu"))
        together.wait()


@pytest.mark.release
def test_no_compiler_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(TrainingError, match=r"set train\.compile: false") as caught:
        train(small_run(tmp_path, compile=True))
    assert "\n" not in str(caught.value)


def test_a_failed_compilation_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's own exceptions, whose import takes seconds, are stood in for."""

    class FailedError(Exception):
        pass

    module = SimpleNamespace(TorchDynamoException=FailedError)
    monkeypatch.setitem(sys.modules, "torch._dynamo.exc", module)  # type: ignore[arg-type]
    sentence = r"^run: the network .* \(no compiler\)\. .* set train\.compile: false"
    with pytest.raises(TrainingError, match=sentence) as caught, compiler_errors("run"):
        raise FailedError("no compiler\nin many\nlines")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="other"), compiler_errors("run"):
        raise ValueError("other")


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_compiled_training_agrees_up_to_rounding(tmp_path: Path, network: str) -> None:
    plain = train(small_run(tmp_path / "plain", network, torch.float64))
    compiled = train(small_run(tmp_path / "compiled", network, torch.float64, compile=True))
    expected, found = weights(plain), weights(compiled)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-9, msg=name)
    assert any(not torch.equal(found[name], expected[name]) for name in expected)
