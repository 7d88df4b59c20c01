"""The one training loop: every network of the study is optimised by it.

A run is a list of phases (one optimizer and one loss each; a GAN has two) that are stepped in
turn. All randomness of a step is a function of seed and step, so a run that is stopped and resumed
from a checkpoint gives bitwise the same result as an uninterrupted one (on the CPU).

A batch can be cut into equal parts, over processes and one after the other. Two parts over two
processes and two parts in one process give bitwise equal results. There are two ways to cut:

- where the loss is a mean over images (`train.accumulation`), every part draws the random numbers
  of the whole batch and keeps its slice, so the result differs from that of the whole batch only
  in the summation order of the gradient;
- where it is not (`Run.part`), the loss of a batch is the mean of the losses of its parts, each
  with random numbers of its own. The size of a part then changes the result.
"""

import contextlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from diffusability.artifacts.atomic import write_bytes
from diffusability.artifacts.tensors import non_finite
from diffusability.errors import TrainingError, TrainingInterrupted
from diffusability.nn.recomputation import recompute_blocks
from diffusability.study.core.spec import TIME_BUDGET
from diffusability.training.batches import BatchOrder, step_generator
from diffusability.training.checkpoint import (
    Checkpoint,
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from diffusability.training.compilation import compile_forward, compiler_errors
from diffusability.training.ema import ExponentialMovingAverage
from diffusability.training.history import (
    History,
    PhaseValues,
    steps_per_reading,
    write_history,
)
from diffusability.training.interruption import Interruption
from diffusability.training.progress import Progress
from diffusability.training.run import Batch, Phase, Run, check_division, weights_name
from diffusability.training.schedule import learning_rate

logger = logging.getLogger(__name__)
NAMED_INDICES = 8  # images of a bad batch named in the message


def train(run: Run) -> "Training":
    """Train to the last step, resuming from the run's state folder if it holds a checkpoint.

    Raises:
        TrainingInterrupted: time is up or a signal came; the state is saved.
        TrainingError: a loss or a gradient is not finite; the message names step, learning rate
            and batch. Or weights are not finite.
    """
    training = Training(run)
    training.resume()
    training.go()
    return training


class Training:
    """A run in progress: modules, optimizers, average, history and the step reached."""

    def __init__(self, run: Run) -> None:
        """Build optimizers and the average for freshly initialised modules.

        Raises:
            TrainingError: the batch cannot be cut into the requested parts.
        """
        check_division(run)
        self.run = run
        self.step = 0
        self._curves = History(run.spec)
        self._interval = steps_per_reading(run.device, run.parts)
        betas, decay = run.spec.betas, run.spec.weight_decay
        self._optimizers = {
            phase.name: torch.optim.AdamW(
                phase.parameters, run.spec.lr, betas, weight_decay=decay, fused=True
            )
            for phase in run.phases
        }
        averaged = run.averaged is not None and run.spec.ema is not None
        self._average = (
            ExponentialMovingAverage(
                run.modules[run.averaged or ""], run.spec.ema or 0.0, run.spec.ema_warmup
            )
            if averaged
            else None
        )
        # after the copy for the average, which is neither trained nor compiled
        if run.spec.activation_checkpointing:
            recompute_blocks(run.modules[self._kept])
        if run.spec.compile:
            compile_forward(run.modules[self._kept])
        self._order = BatchOrder(run.images, run.spec.batch, run.seed, run.versions)
        self._parts = run.processes.share(run.spec.batch, run.parts)

    @cached_property
    def _losses(self) -> dict[str, nn.Module]:
        """The loss of each phase, for all processes together; made when all of them train."""
        reduced = self.run.processes.reduced
        return {
            phase.name: reduced(phase.loss, phase.parameters, phase.complete)
            for phase in self.run.phases
        }

    @property
    def history(self) -> list[dict[str, float]]:
        """Rows of the loss curves."""
        return self._curves.rows

    @property
    def averaged(self) -> nn.Module:
        """The module to save: the average if there is one, else the trained module."""
        if self._average is not None:
            return self._average.module
        return self.run.modules[self._kept]

    @property
    def _kept(self) -> str:
        return self.run.averaged or next(iter(self.run.modules))

    def go(self) -> None:
        """Take all remaining steps."""
        run = self.run
        leads = run.processes.leads
        steps = run.spec.steps
        progress = Progress(run.name, steps, self.step, run.state) if leads else None
        budget = math.inf if run.minutes is None else 60 * TIME_BUDGET * run.minutes
        deadline = time.monotonic() + budget
        saved, wait = time.monotonic(), run.checkpoint_seconds
        try:
            with Interruption() as interruption:
                while self.step < run.spec.steps:
                    row = self._take_step()
                    if self.step in run.snapshots:
                        self._write_snapshot()
                    if progress is not None:
                        progress.advance(row)
                    now = time.monotonic()
                    reason = interruption.reason or ("time is up" if now > deadline else None)
                    stop = reason is not None
                    if run.processes.count > 1:  # all of them ask at the same steps
                        stop = self._reads and run.processes.any(stop, run.device)
                    if stop and self.step < run.spec.steps:
                        self._save_and_stop(reason or "another of its processes is stopping")
                    if now - saved >= wait:
                        self.save()
                        saved = time.monotonic()
                        wait = max(run.checkpoint_seconds, (saved - now) / run.checkpoint_share)
            self._refuse_bad_weights()
        finally:
            if progress is not None:
                progress.close()

    def _save_and_stop(self, reason: str) -> None:
        run = self.run
        self.save()
        run.processes.wait()  # torchrun ends all processes as soon as one ends
        raise TrainingInterrupted(
            f"{run.name}: {reason}; saved step {self.step} of {run.spec.steps} in {run.state}. "
            "The same command resumes from there"
        )

    def _take_step(self) -> dict[str, float] | None:
        """Take a step; return its values if they are read now."""
        run, step = self.run, self.step
        rate = learning_rate(step, run.spec)
        batches = self._batches(step)
        found = [
            self._descend(phase, batches, rate) for phase in run.phases if step >= phase.starts
        ]
        if self._average is not None:
            self._average.update()
        self.step += 1
        self._curves.add(step, rate, found)
        return self._read() if self._reads else None

    @property
    def _reads(self) -> bool:
        """Whether the host waits for the values of the step that was taken last."""
        return self.step % self._interval == 0 or self.step == self.run.spec.steps

    def _read(self) -> dict[str, float] | None:
        """Read the values of all steps since the last reading.

        Raises:
            TrainingError: one of them is not finite.
        """
        return self._curves.read(self._stop_at_bad)

    def _batches(self, step: int) -> list[Batch]:
        """Return this process's parts of a step's batch, each with a generator of its own."""
        run, indices = self.run, self._order.indices(step)
        batches = []
        for k, part in enumerate(self._parts):
            number = part.start // run.part if run.part else None
            generator = step_generator(run.seed, step, run.device, number)
            following = self._parts[k + 1 :]
            upcoming = indices[following[0]] if following else self._first_picked(step + 1)
            batches.append(Batch(step, indices, generator, part, upcoming))
        return batches

    def _first_picked(self, step: int) -> Tensor | None:
        """Return the indices of this process's first part of a step; None after the last step."""
        if step == self.run.spec.steps:
            return None
        return self._order.indices(step)[self._parts[0]]

    def _descend(self, phase: Phase, batches: list[Batch], rate: float) -> PhaseValues:
        """Minimise the loss of a phase, and return its values without waiting for them.

        Where a value is not finite, the device leaves the weights as they are.
        """
        spec = self.run.spec
        optimizer = self._optimizers[phase.name]
        for group in optimizer.param_groups:
            group["lr"] = rate
        # buckets of several processes are kept; a parameter without use must not have a gradient
        keep = phase.complete and self.run.processes.count > 1
        optimizer.zero_grad(set_to_none=not keep)
        parts = [self._backward(phase, batch, batch is batches[-1]) for batch in batches]
        means = self._means(parts)  # (K,)
        norm = nn.utils.get_total_norm([p.grad for p in phase.parameters if p.grad is not None])
        values = torch.cat([means.double(), norm.double()[None]])  # (K + 1,)
        found = PhaseValues(phase.name, list(parts[0]), values, spec.clip is not None)
        if spec.clip is not None:
            nn.utils.clip_grads_with_norm_(phase.parameters, spec.clip, norm)
        optimizer.found_inf = found.bad  # type: ignore[attr-defined]  # as torch's GradScaler does
        optimizer.step()
        return found

    def _means(self, parts: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Return the (K,) means of K scalars over these parts and those of other processes."""
        sums = torch.stack([torch.stack(list(part.values())) for part in parts]).sum(0)  # (K,)
        self.run.processes.add([sums])
        return sums / (len(parts) * self.run.processes.count)

    def _backward(self, phase: Phase, batch: Batch, last: bool) -> dict[str, Tensor]:
        """Add the gradient of one part; return its loss and terms as float32 scalars.

        After the `last` part, gradients are sums over the processes.
        """
        run, loss = self.run, self._losses[phase.name]
        half = run.spec.precision == "bf16"
        errors = compiler_errors(run.name) if run.spec.compile else contextlib.nullcontext()
        with errors, run.processes.exchanging(loss, last):
            with torch.autocast(run.device.type, torch.bfloat16, enabled=half):
                total, terms = loss(batch)
            with run.processes.connected():
                (total / (run.parts * run.processes.count)).backward()
        terms = {phase.name: total, **terms}
        return {name: value.detach().float() for name, value in terms.items()}

    def _stop_at_bad(self, what: str, step: int, rate: float, row: Mapping[str, float]) -> None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        indices = (self._order.indices(step) % self.run.images).tolist()
        more = ", ..." if len(indices) > NAMED_INDICES else ""
        named = f"[{', '.join(map(str, indices[:NAMED_INDICES]))}{more}]"
        raise TrainingError(
            f"{self.run.name}: the {what} is not finite at step {step} (learning rate "
            f"{rate:.4g}, images {named}; {values}). No artifact was written. A lower train.lr, "
            "train.clip, or train.precision: fp32 may help"
        )

    def _refuse_bad_weights(self) -> None:
        """Refuse weights that an update with a finite gradient made infinite."""
        for name, module in self._all_modules().items():
            bad = non_finite(module.state_dict())
            if bad:
                raise TrainingError(
                    f"{self.run.name}: the weights are not finite after step {self.step}: "
                    f"{len(bad)} tensors of `{name}`, first {bad[0]}. Nothing was written. A lower "
                    "train.lr, train.clip, or train.precision: fp32 may help"
                )

    def _write_snapshot(self) -> None:
        """Write the averaged weights of this step; a run that resumes before it writes the same."""
        self._read()
        self._refuse_bad_weights()
        if self.run.processes.leads:
            tensors = {k: v.contiguous() for k, v in self.averaged.state_dict().items()}
            write_bytes(self.run.state / weights_name(self.step), save(tensors))

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on, in one process.

        Raises:
            TrainingError: a loss, a gradient or weights are not finite; the last checkpoint stays.
        """
        self._read()
        self._refuse_bad_weights()
        if not self.run.processes.leads:
            return
        tensors: dict[str, Tensor] = {}
        for name, module in self._all_modules().items():
            tensors |= {f"module.{name}.{k}": v for k, v in module.state_dict().items()}
        for name, optimizer in self._optimizers.items():
            tensors |= flatten_optimizer(optimizer, f"optimizer.{name}")
        values = {
            **self._curves.state(),
            "updates": self._average.updates if self._average else 0,
        }
        save_checkpoint(self.run.state, Checkpoint(self.step, tensors, values))

    def resume(self) -> None:
        """Load the newest checkpoint of the state folder, if there is one."""
        checkpoint = load_checkpoint(self.run.state)
        if checkpoint is None:
            return
        self._check_snapshots(checkpoint.step)
        for name, module in self._all_modules().items():
            prefix = f"module.{name}."
            weights = {
                key.removeprefix(prefix): tensor
                for key, tensor in checkpoint.tensors.items()
                if key.startswith(prefix)
            }
            module.load_state_dict(weights)
        for name, optimizer in self._optimizers.items():
            restore_optimizer(optimizer, checkpoint.tensors, f"optimizer.{name}")
        self.step = checkpoint.step
        self._curves.restore(checkpoint.values)
        if self._average is not None:
            self._average.updates = checkpoint.values["updates"]
        logger.info("%s: resumed at step %d of %d", self.run.name, self.step, self.run.spec.steps)

    def _check_snapshots(self, step: int) -> None:
        """Refuse to resume after a snapshot that is gone, because it would never be written."""
        state = self.run.state
        passed = [weights_name(one) for one in self.run.snapshots if one <= step]
        gone = [name for name in passed if not (state / name).exists()]
        if gone:
            raise TrainingError(
                f"{self.run.name}: {', '.join(gone)} is gone from {state}, whose checkpoint is at "
                f"step {step}; start again from the first step with: rm -r {state}"
            )

    def _all_modules(self) -> dict[str, nn.Module]:
        average = {"average": self._average.module} if self._average is not None else {}
        return {**self.run.modules, **average}

    def write_history(self, path: Path) -> None:
        """Write the loss curves as CSV; a phase that starts late leaves early cells empty."""
        write_history(self.history, path)
