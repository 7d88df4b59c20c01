"""How often the host waits for the device in training, and that values which wait are not lost."""

import math
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from diffusability.errors import TrainingError
from diffusability.study.core.spec import TrainSpec
from diffusability.training import loop
from diffusability.training.checkpoint import load_checkpoint
from diffusability.training.history import READ_EVERY, steps_per_reading
from diffusability.training.loop import Training, train
from diffusability.training.run import Batch, Losses, Phase, weights_name
from tests.unit.small_diffusion import assert_same, small_run, weights
from tests.unit.test_training import make_run

WAITING = {
    *(torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy),
    *(torch.Tensor.__bool__, torch.Tensor.__float__, torch.Tensor.__int__),
}


class Waits(TorchFunctionMode):
    """Counts the calls that copy a tensor to the host, in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func in WAITING
        return func(*args, **(kwargs or {}))


class Scalars(TorchDispatchMode):
    """Counts the numbers that operators read on the host, also inside of torch."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.fixture
def every_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "steps_per_reading", lambda device, parts: 4)


def waits(training: Training, steps: int) -> tuple[int, int]:
    with Waits() as calls, Scalars() as scalars:
        for _ in range(steps):
            training._take_step()
    return calls.count, scalars.count


def test_a_step_of_two_phases_waits_once_and_on_a_gpu_every_few_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert waits(Training(make_run(tmp_path)), 8) == (8, 0)
    assert waits(Training(small_run(tmp_path)), 8) == (8, 0)
    monkeypatch.setattr(loop, "steps_per_reading", lambda device, parts: 4)
    assert waits(Training(make_run(tmp_path)), 8) == (2, 0)
    assert waits(Training(small_run(tmp_path, accumulation=2)), 8) == (2, 0)


def test_long_steps_are_read_more_often() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert [steps_per_reading(gpu, parts) for parts in (1, 4, 32)] == [READ_EVERY, 4, 1]
    assert steps_per_reading(cpu, 1) == 1


@pytest.mark.usefixtures("every_four")
def test_weights_and_history_do_not_depend_on_when_values_are_read(tmp_path: Path) -> None:
    late = train(make_run(tmp_path / "late", steps=11, spec=spec(11)))
    stopped = Training(make_run(tmp_path / "stopped", steps=11, spec=spec(11)))
    for _ in range(6):
        stopped._take_step()
    stopped.save()  # reads two steps that were waiting
    resumed = train(make_run(tmp_path / "stopped", steps=11, spec=spec(11)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "steps_per_reading", lambda device, parts: 1)
        once = train(make_run(tmp_path / "once", steps=11, spec=spec(11)))
    assert late.history == once.history == resumed.history
    assert len(once.history) == 11
    assert_same(weights(late), weights(once))
    assert_same(weights(resumed), weights(once))


def spec(steps: int) -> TrainSpec:
    return TrainSpec(steps=steps, batch=4, lr=0.05, schedule="cosine", ema=0.9, clip=1.0)


@pytest.mark.usefixtures("every_four")
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_bad_value_leaves_the_weights_and_is_named_when_it_is_read(
    tmp_path: Path, what: str
) -> None:
    run = make_run(tmp_path)
    good = run.phases[0]

    def loss(batch: Batch) -> Losses:
        total = good.loss(batch).total
        if batch.step == 5 and what == "loss":
            total = total * math.nan
        if batch.step == 5 and what == "gradient":
            total = total + 0 * (total - total.detach()).sqrt()  # 0 x inf
        return Losses(total)

    phases = [Phase("one", good.parameters, loss), run.phases[1]]
    training = Training(make_run(tmp_path, phases=phases, modules=run.modules))
    for _ in range(5):
        training._take_step()
    before = [p.detach().clone() for p in good.parameters]
    training._take_step()
    assert all(map(torch.equal, before, good.parameters))
    with pytest.raises(TrainingError, match=f"the {what} is not finite at step 5 "):
        training.save()
    assert load_checkpoint(tmp_path) is None
    again = Training(make_run(tmp_path, phases=phases, modules=run.modules))
    with pytest.raises(TrainingError, match=f"the {what} is not finite at step 5 "):
        again.go()
    assert again.step == 8


@pytest.mark.usefixtures("every_four")
def test_no_snapshot_is_written_after_a_bad_value(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    good = run.phases[0]

    def loss(batch: Batch) -> Losses:
        return Losses(good.loss(batch).total * (math.nan if batch.step == 1 else 1))

    phases = [Phase("loss", good.parameters, loss, divisible=True)]
    bad = type(run)(**{**vars(run), "phases": phases, "snapshots": (2,)})
    with pytest.raises(TrainingError, match="not finite at step 1"):
        train(bad)
    assert not (tmp_path / weights_name(2)).exists()
