"""Image indices of each training batch, a function of seed and step only."""

import torch
from torch import Tensor

from diffusability.study.core.fingerprint import derive_seed


class BatchOrder:
    """An endless stream of shuffled epochs, cut into batches, with random access by step.

    Random access makes resuming exact: there is no position to restore. If images come in several
    versions (mirrored or not), each item of a batch is one of them with equal probability:
    version v of image i has index v * size + i.
    """

    def __init__(self, size: int, batch: int, seed: int, versions: int = 1) -> None:
        """Shuffle `size` images into batches of `batch` with `seed`."""
        self.size, self.batch, self.seed, self.versions = size, batch, seed, versions
        self._epochs: dict[int, Tensor] = {}

    def indices(self, step: int) -> Tensor:
        """Return the image indices of one step, (batch,) int64, on the CPU."""
        start = step * self.batch
        first, last = start // self.size, (start + self.batch - 1) // self.size
        epochs = [self._epoch(epoch) for epoch in range(first, last + 1)]
        stream = epochs[0] if first == last else torch.cat(epochs)  # 10 MB of ImageNet: no copy
        offset = start - first * self.size
        return stream[offset : offset + self.batch] + self.size * self._versions(step)

    def _versions(self, step: int) -> Tensor:
        """Return the version of each image of a step, (batch,) int64."""
        if self.versions == 1:
            return torch.zeros(self.batch, dtype=torch.int64)
        generator = torch.Generator().manual_seed(derive_seed("version", self.seed, step))
        return torch.randint(self.versions, (self.batch,), generator=generator)

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
            self._epochs = {k: v for k, v in self._epochs.items() if k >= epoch - 1}
            self._epochs[epoch] = torch.randperm(self.size, generator=generator)
        return self._epochs[epoch]


def step_generator(
    seed: int, step: int, device: torch.device, part: int | None = None
) -> torch.Generator:
    """Return the generator of all randomness in one step, or in one part of it.

    It is a function of seed, step and the part's number in the batch only.
    """
    parts = () if part is None else (part,)
    return torch.Generator(device).manual_seed(derive_seed("step", seed, step, *parts))
