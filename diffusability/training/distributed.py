"""Data-parallel training: processes started by torchrun, each with a part of every batch."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

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
        raise TrainingError("another process of this training ended; see its message") from error


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
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def processes() -> Processes:
    """Return the joined processes, or a single process."""
    if not dist.is_initialized():
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size())
