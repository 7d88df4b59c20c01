"""The training loop: schedules and order by hand, resume to the bit, bad losses stopped."""

import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from diffusability.errors import TrainingError, TrainingInterrupted
from diffusability.study.core.spec import TrainSpec
from diffusability.training.batches import BatchOrder, step_generator
from diffusability.training.checkpoint import (
    CURRENT,
    PREVIOUS,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from diffusability.training.ema import ExponentialMovingAverage
from diffusability.training.history import History, PhaseValues
from diffusability.training.interruption import Interruption
from diffusability.training.loop import Training, train
from diffusability.training.run import Batch, Losses, Phase, Run
from diffusability.training.schedule import learning_rate
from tests.unit.small_diffusion import assert_same, weights


def make_run(state: Path, steps: int = 12, **changes) -> Run:
    """A regression with noise in its loss, two phases, and a moving average."""
    torch.manual_seed(0)
    first, second = nn.Linear(3, 1), nn.Linear(3, 1)
    data = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))

    def loss_of(name: str, module: nn.Module):
        def loss(batch: Batch) -> Losses:
            noise = torch.randn(len(batch.indices), 3, generator=batch.generator)
            error = module(data[batch.indices] + 0.1 * noise) - data[batch.indices].sum(1, True)
            total = error.square().mean()
            return Losses(total, {f"{name}_mae": error.abs().mean()})

        return loss

    spec = TrainSpec(steps=steps, batch=4, lr=0.05, schedule="cosine", ema=0.9, clip=1.0)
    settings = {
        "name": "toy",
        "spec": spec,
        "modules": {"first": first, "second": second},
        "phases": [
            Phase("one", list(first.parameters()), loss_of("one", first)),
            Phase("two", list(second.parameters()), loss_of("two", second)),
        ],
        "images": 10,
        "seed": 7,
        "state": state,
        "averaged": "first",
    }
    return Run(**(settings | changes))


def test_learning_rate_by_hand() -> None:
    spec = TrainSpec(steps=10, lr=1.0, warmup=4, schedule="cosine")
    rates = [learning_rate(step, spec) for step in range(10)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1.0
    assert rates[7] == pytest.approx(0.5)
    assert rates[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 5 / 6)))
    constant = TrainSpec(steps=10, lr=0.5)
    assert {learning_rate(step, constant) for step in range(10)} == {0.5}


def test_order_shows_every_image_once_an_epoch_and_has_random_access() -> None:
    order = BatchOrder(size=10, batch=4, seed=3)
    stream = torch.cat([order.indices(step) for step in range(5)])  # two epochs
    assert sorted(stream[:10].tolist()) == list(range(10))
    assert sorted(stream[10:].tolist()) == list(range(10))
    assert stream[:10].tolist() != stream[10:].tolist()
    again = BatchOrder(size=10, batch=4, seed=3)
    assert torch.equal(again.indices(4), order.indices(4))
    assert torch.equal(again.indices(1), order.indices(1))
    assert not torch.equal(BatchOrder(10, 4, seed=4).indices(0), order.indices(0))


def test_batch_larger_than_the_data() -> None:
    counts = BatchOrder(size=3, batch=7, seed=0).indices(0).bincount(minlength=3)
    assert counts.tolist() in ([2, 2, 3], [2, 3, 2], [3, 2, 2])


def test_step_generator_depends_on_seed_and_step() -> None:
    draws = {
        torch.rand(1, generator=step_generator(seed, step, torch.device("cpu"))).item()
        for seed in (0, 1)
        for step in (0, 1)
    }
    assert len(draws) == 4


def test_average_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = ExponentialMovingAverage(module, decay=0.25)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average.update()  # decay min(.25, 2/11)
    expected = 1 - 2 / 11
    assert average.module.weight.item() == pytest.approx(expected)
    average.update()  # decay min(.25, 3/12)
    assert average.module.weight.item() == pytest.approx(1 - 0.25 * (1 - expected))
    average.update()  # the stated decay from here on
    assert average.module.weight.item() == pytest.approx(1 - 0.25**2 * (1 - expected))


def test_average_without_warm_up_by_hand() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = ExponentialMovingAverage(module, decay=0.75, warmup=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    for updates in (1, 2, 3):
        average.update()
        assert average.module.weight.item() == pytest.approx(1 - 0.75**updates)


def test_one_step_by_hand(tmp_path: Path) -> None:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(2.0)
    spec = TrainSpec(steps=1, batch=1, lr=0.1, betas=(0.9, 0.999), weight_decay=0.5)
    phase = Phase("p", [module.weight], lambda batch: Losses(3.0 * module.weight.sum()))
    train(Run("hand", spec, {"m": module}, [phase], 1, 0, tmp_path))
    # AdamW's first step: w (1 - lr wd) - lr g / (|g| + eps)
    assert module.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, abs=1e-6)


def test_gradients_are_clipped_to_their_norm(tmp_path: Path) -> None:
    for clip, expected in ((None, 3.0), (10.0, 3.0), (1e-3, 1e-3)):
        module = nn.Linear(1, 1, bias=False)
        spec = TrainSpec(steps=1, batch=1, lr=0.1, betas=(0.9, 0.999), clip=clip)
        phase = Phase("p", [module.weight], lambda batch, m=module: Losses(3.0 * m.weight.sum()))
        folder = tmp_path / str(clip)
        training = train(Run("clip", spec, {"m": module}, [phase], 1, 0, folder))
        # Adam's step does not depend on the scale of its first gradient, its moment does
        (state,) = training._optimizers["p"].state.values()
        assert state["exp_avg"].item() == pytest.approx(0.1 * expected, rel=1e-4)


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_resume_equals_no_interruption(tmp_path: Path, stop: int) -> None:
    whole = train(make_run(tmp_path / "whole"))
    first = Training(make_run(tmp_path / "parts"))
    while first.step < stop:
        first._take_step()
    first.save()
    second = train(make_run(tmp_path / "parts"))
    assert_same(weights(whole), weights(second))
    assert whole.history == second.history


def test_time_budget_saves_and_says_so(tmp_path: Path) -> None:
    whole = train(make_run(tmp_path / "whole"))
    with pytest.raises(TrainingInterrupted, match=r"time is up; saved step 1 of 12") as caught:
        train(make_run(tmp_path / "parts", minutes=0.0))
    assert caught.value.exit_code == 75
    assert_same(weights(whole), weights(train(make_run(tmp_path / "parts"))))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1.0, [3, 6, 9, 12]), (5.0, [3, 6, 9, 12]), (400.0, [3])],
)
def test_a_slow_disk_makes_checkpoints_rarer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: list[int]
) -> None:
    now, saved = [0.0], []
    take_step = Training._take_step

    def step(training: Training) -> dict[str, float] | None:
        now[0] += 100.0
        return take_step(training)

    def save(training: Training) -> None:
        now[0] += seconds
        saved.append(training.step)

    monkeypatch.setattr(
        "diffusability.training.loop.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    monkeypatch.setattr(Training, "_take_step", step)
    monkeypatch.setattr(Training, "save", save)
    train(make_run(tmp_path))
    assert saved == expected


def test_a_repeated_signal_is_one_request_and_a_second_request_kills(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, killed = [100.0], []
    monkeypatch.setattr("diffusability.training.interruption.time.monotonic", lambda: now[0])
    former = signal.signal(signal.SIGTERM, lambda number, frame: killed.append(number))
    try:
        with Interruption() as interruption:
            for _ in range(3):  # the scheduler's, and what launchers pass on
                signal.raise_signal(signal.SIGTERM)
                now[0] += 0.5
            assert interruption.reason == "stopped by SIGTERM"
            assert not killed
            now[0] += 1.0
            signal.raise_signal(signal.SIGTERM)
            assert killed == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, former)


def _crash(*given: object) -> None:
    raise KeyboardInterrupt


def test_half_a_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(make_run(tmp_path))
    for _ in range(2):
        training._take_step()
        training.save()
    current = tmp_path / CURRENT
    current.write_bytes(current.read_bytes()[: current.stat().st_size // 2])
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    # the next save must not keep the damaged one as the one before, in case it is not finished
    monkeypatch.setattr("diffusability.training.checkpoint.save_file", _crash)
    resumed = Training(make_run(tmp_path))
    resumed.resume()
    with pytest.raises(KeyboardInterrupt):
        resumed.save()
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.raises(TrainingError, match="no checkpoint can be read; remove"):
        load_checkpoint(tmp_path)


def test_bad_loss_names_step_rate_and_batch(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    good = run.phases[0].loss

    def loss(batch: Batch) -> Losses:
        losses = good(batch)
        return Losses(losses.total * (math.nan if batch.step == 3 else 1.0), losses.terms)

    phases = [Phase("one", run.phases[0].parameters, loss)]
    with pytest.raises(TrainingError) as caught:
        train(make_run(tmp_path, phases=phases))
    indices = BatchOrder(10, 4, 7).indices(3).tolist()
    rate = learning_rate(3, run.spec)
    assert f"at step 3 (learning rate {rate:.4g}, images {indices}" in str(caught.value)


class _BadBackward(torch.autograd.Function):
    """The identity, with a gradient of NaN."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_bad_gradient_of_a_finite_loss_stops_the_last_step_too(
    tmp_path: Path, clip: float | None
) -> None:
    good = make_run(tmp_path).phases[0]
    spec = TrainSpec(steps=3, batch=4, lr=0.05, clip=clip)

    def loss(batch: Batch) -> Losses:
        total = good.loss(batch).total
        return Losses(_BadBackward.apply(total) if batch.step == 2 else total)

    run = make_run(tmp_path, spec=spec, phases=[Phase("one", good.parameters, loss)])
    with pytest.raises(TrainingError, match="the gradient is not finite at step 2"):
        train(run)
    # the device left the weights as they were before that step
    spec = TrainSpec(steps=2, batch=4, lr=0.05, clip=clip)
    phase = make_run(tmp_path / "two").phases[0]
    phases = [Phase("one", phase.parameters, phase.loss)]
    before = weights(train(make_run(tmp_path / "two", spec=spec, phases=phases)))
    after = run.modules["first"].state_dict()
    assert all(torch.equal(value, before[f"first.{name}"]) for name, value in after.items())


def test_weights_that_overflow_are_neither_published_nor_saved(tmp_path: Path) -> None:
    training = Training(make_run(tmp_path))
    training._take_step()
    training.save()
    with torch.no_grad():
        training.run.modules["second"].weight[0, 0] = math.inf
    training.step = training.run.spec.steps
    with pytest.raises(TrainingError, match="weights are not finite after step 12: 1 tensors of"):
        training.go()
    with pytest.raises(TrainingError, match="`second`, first weight"):
        training.save()
    assert load_checkpoint(tmp_path).step == 1


def test_a_checkpoint_that_is_not_finite_does_not_trap_the_run(tmp_path: Path) -> None:
    whole = train(make_run(tmp_path / "whole"))
    training = Training(make_run(tmp_path / "parts"))
    for _ in range(2):
        training._take_step()
        training.save()
    spoil(tmp_path / "parts" / CURRENT)
    assert load_checkpoint(tmp_path / "parts").step == 1
    assert_same(weights(whole), weights(train(make_run(tmp_path / "parts"))))
    spoil(tmp_path / "parts" / PREVIOUS)  # the only one that is left
    assert load_checkpoint(tmp_path / "parts") is None
    assert_same(weights(whole), weights(train(make_run(tmp_path / "parts"))))


def spoil(path: Path) -> None:
    """Set one weight of a checkpoint to NaN, as if it had been saved so."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["module.first.weight"][0, 0] = math.nan
    folder = path.parent / "spoilt"
    folder.mkdir(exist_ok=True)
    values = json.loads(metadata["values"])
    save_checkpoint(folder, Checkpoint(int(metadata["step"]), tensors, values))
    (folder / CURRENT).replace(path)


def read_history(history: History, step: int, **values: float) -> None:
    """Note a step of one phase, and read it."""
    numbers = torch.tensor([*values.values(), 0.0], dtype=torch.float64)
    history.add(step, 0.1, [PhaseValues("p", list(values), numbers, clipped=False)])
    history.read(lambda *_: pytest.fail("all are finite"))


def test_a_term_that_starts_within_an_interval_is_a_mean_over_its_own_steps() -> None:
    history = History(TrainSpec(steps=400))  # four steps per row
    for step in range(3):
        read_history(history, step, l1=1.0 + step)
    resumed = History(TrainSpec(steps=400))
    resumed.restore(json.loads(json.dumps(history.state())))
    read_history(resumed, 3, l1=4.0, gan=8.0)
    assert resumed.rows == [{"step": 4, "learning_rate": 0.1, "l1": 2.5, "gan": 8.0}]


def test_a_checkpoint_with_one_count_for_all_terms_is_resumed() -> None:
    history = History(TrainSpec(steps=400))
    history.restore({"history": [], "sums": {"l1": 6.0, "kl": 3.0}, "summed": 3})
    read_history(history, 3, l1=2.0, kl=1.0)
    assert history.rows == [{"step": 4, "learning_rate": 0.1, "l1": 2.0, "kl": 1.0}]


def test_history_averages_intervals_and_covers_every_step(tmp_path: Path) -> None:
    training = train(make_run(tmp_path, steps=250, spec=TrainSpec(steps=250, batch=4, lr=0.01)))
    steps = [row["step"] for row in training.history]
    assert steps == list(range(2, 251, 2))
    training.write_history(tmp_path / "history.csv")
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert header.startswith("step,learning_rate,one")
    json.dumps(training.history, allow_nan=False)


def test_a_checkpoint_with_one_altered_bit_is_not_resumed_from(tmp_path: Path) -> None:
    """Every byte of a small checkpoint but those that only pad its header."""
    tensors = {"w": torch.arange(3.0), "n": torch.tensor(7), "h": torch.ones(2).bfloat16()}
    save_checkpoint(tmp_path, Checkpoint(3, tensors, {"history": [0.5]}))
    whole = (tmp_path / CURRENT).read_bytes()
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.values == {"history": [0.5]}
    for place in range(0, len(whole), 3):
        altered = bytearray(whole)
        altered[place] ^= 1
        (tmp_path / CURRENT).write_bytes(altered)
        try:
            again = load_checkpoint(tmp_path)
        except TrainingError:
            continue
        assert again is not None
        assert again.step == 3
        assert again.values == {"history": [0.5]}
        assert all(torch.equal(again.tensors[name], tensors[name]) for name in tensors)
