"""Posteriors that training samples from: on the device if they fit, else read ahead."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from diffusability.latents.mapped import MappedLatents, MappedTensor
from diffusability.nn.transfer import to_device

HELD_BYTES = 4 * 2**30  # sets up to this size are kept on the device
READERS = 8  # threads per batch, because page faults wait for the disk
Moments = tuple[Tensor, Tensor]


class Posteriors:
    """Mean and standard deviation of the posteriors of chosen images, batch by batch.

    Index v * n + i is version v (0 original, 1 mirrored) of the i-th of the n chosen images.
    """

    def __init__(
        self,
        latents: MappedLatents,
        images: Tensor,
        device: torch.device,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        """Choose `images`, (n,) int64; moments of up to `held_bytes` are kept on the device."""
        self._images, self._device = images, device
        self._moments: list[tuple[MappedTensor, MappedTensor]] = [(latents.mean, latents.logvar)]
        if latents.mirrored is not None:
            self._moments.append(latents.mirrored)
        self.versions = len(self._moments)
        self.shape = latents.mean.shape[1:]  # C, h, w
        self.labels = latents.labels[images].to(device)  # (n,)
        floats = 2 * len(self) * self.versions * self.shape.numel()
        self._held: Moments | None = None
        if 4 * floats <= held_bytes:
            everything = torch.arange(len(self) * self.versions)
            mean, std = self._read(everything)
            self._held = mean.to(device), std.to(device)
        self._pool = ThreadPoolExecutor(READERS) if self._held is None else None
        self._ahead: tuple[Tensor, list[Future[Moments]]] | None = None

    def __len__(self) -> int:
        """Return the number n of chosen images."""
        return len(self._images)

    def labels_of(self, indices: Tensor) -> Tensor:
        """Return the (B,) int64 labels of (B,) indices, on the device."""
        return self.labels[to_device(indices % len(self), self._device)]

    def fetch(self, indices: Tensor, upcoming: Tensor | None = None) -> Moments:
        """Return mean and standard deviation of a batch.

        Args:
            indices: (B,) int64 on the CPU, below n x versions.
            upcoming: the indices of the next call; they are read in the background.

        Returns:
            Two (B, C, h, w) float32 tensors on the device, in latent units.
        """
        if self._held is not None:
            picked = to_device(indices, self._device)
            return self._held[0][picked], self._held[1][picked]
        if self._ahead is not None and torch.equal(self._ahead[0], indices):
            reading = self._ahead[1]
        else:
            reading = self._begin(indices)
        self._ahead = None if upcoming is None else (upcoming, self._begin(upcoming))
        parts = [future.result() for future in reading]
        mean, std = (torch.cat(moment) for moment in zip(*parts, strict=True))
        return to_device(mean, self._device), to_device(std, self._device)

    def _begin(self, indices: Tensor) -> list[Future[Moments]]:
        assert self._pool is not None  # read ahead only what is not on the device
        return [self._pool.submit(self._read, part) for part in indices.chunk(READERS)]

    def _read(self, indices: Tensor) -> Moments:
        """Return mean and standard deviation of (b,) indices in memory."""
        versions, images = indices // len(self), self._images[indices % len(self)]
        mean = torch.empty(len(indices), *self.shape)
        std = torch.empty_like(mean)
        for version, (means, logvars) in enumerate(self._moments):
            chosen = versions == version  # (b,)
            mean[chosen] = means[images[chosen]]
            std[chosen] = torch.exp(0.5 * logvars[images[chosen]])
        return mean, std
