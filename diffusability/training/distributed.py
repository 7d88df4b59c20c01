"""Data-parallel training: processes started by torchrun, each with a part of every batch."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diffusability.errors import TrainingError

# others wait while the first process verifies latents, or waits for another job that makes the same
# model; a process that dies is noticed by torchrun at once and needs no timeout
PATIENCE = timedelta(hours=24)


@dataclass(frozen=True)
class Processes:
    """The processes that train one network together; with one process, methods do nothing.

    Attributes:
        rank: number of this process, 0 ... count - 1.
        count: number of processes.

    Raises:
        TrainingError: in every method that waits for others, if one of them has ended.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes checkpoints, artifacts and progress."""
        return self.rank == 0

    def share(self, batch: int, accumulation: int) -> list[slice]:
        """Return this process's parts of a batch; batch is divisible by count x accumulation."""
        size = batch // (self.count * accumulation)
        first = self.rank * accumulation
        return [slice(k * size, (k + 1) * size) for k in range(first, first + accumulation)]

    def reduced(
        self, loss: Callable[[Any], Any], parameters: Sequence[nn.Parameter], complete: bool
    ) -> nn.Module:
        """Return a module of `loss` whose backward pass sums gradients over the processes.

        Gradients travel while the backward pass still runs, in buckets
        (`DistributedDataParallel`). They are summed and not averaged, so that they equal those of
        the same parts in one process to the bit.

        Args:
            loss: maps a batch to an object with a scalar `total` and further scalars `terms`.
            parameters: that gradients are needed of.
            complete: whether every step uses all of them; else those are searched for.

        Returns:
            Maps a batch to (total, terms).
        """
        module = _Loss(loss, parameters)
        if self.count == 1:
            return module
        with _lost_processes(), warnings.catch_warnings():
            # newer names of this option synchronise buffers once, which older torch cannot
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            wrapped = DistributedDataParallel(
                module,
                broadcast_buffers=False,
                find_unused_parameters=not complete,
                gradient_as_bucket_view=True,
            )
        wrapped.register_comm_hook(None, _sum)
        return wrapped

    def exchanging(
        self, loss: nn.Module, exchange: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a backward pass of `loss` sums over the processes, or not."""
        if exchange or not isinstance(loss, DistributedDataParallel):
            return contextlib.nullcontext()
        unsynchronised: contextlib.AbstractContextManager[None] = loss.no_sync()
        return unsynchronised

    def connected(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a broken connection to other processes is a TrainingError."""
        return contextlib.nullcontext() if self.count == 1 else _lost_processes()

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the processes, in one fixed order."""
        if self.count == 1:
            return
        with _lost_processes():
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether the flag is set in any process; all of them get the same answer."""
        if self.count == 1:
            return flag
        number = torch.tensor(int(flag), device=device)
        with _lost_processes():
            dist.all_reduce(number, dist.ReduceOp.MAX)
        return bool(number.item())

    def wait(self) -> None:
        """Wait until every process has reached this point."""
        if self.count == 1:
            return
        with _lost_processes():
            dist.barrier()


@contextlib.contextmanager
def _lost_processes() -> Iterator[None]:
    """Turn a broken connection between processes into a TrainingError."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        # gloo has no exception of its own
        if not isinstance(error, dist.DistError) and "gloo" not in text and "by peer" not in text:
            raise  # an error of this process, such as no memory
        raise TrainingError(
            f"another process of this training ended; see its message (here: {text:.200})"
        ) from error


class _Loss(nn.Module):
    """The loss of a phase with its parameters, as a module that can be wrapped."""

    def __init__(self, loss: Callable[[Any], Any], parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.trained = nn.ParameterList(parameters)
        self._loss = loss

    def forward(self, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the total and the terms of the loss, as what a wrapper looks for tensors in."""
        found = self._loss(batch)
        return found.total, found.terms


def _sum(  # torch looks at these annotations
    _: None,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Start summing a bucket of gradients over the processes."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the process group that torchrun set in the environment, or yield a single process.

    Args:
        device: torch device of this process; GPUs use NCCL, CPUs gloo.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    cuda = torch.device(device) if device.startswith("cuda") else None
    if cuda is not None:
        torch.cuda.set_device(cuda)
    dist.init_process_group("gloo" if cuda is None else "nccl", timeout=PATIENCE, device_id=cuda)
    yield Processes(dist.get_rank(), dist.get_world_size())
    # not after an error: with NCCL it waits for the other processes, which wait for this one, and
    # torchrun ends them only when this one has ended
    dist.destroy_process_group()


def processes() -> Processes:
    """Return the joined processes, or a single process."""
    if not dist.is_initialized():
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size())
