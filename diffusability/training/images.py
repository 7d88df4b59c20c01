"""Images of each training step: held on the device, or decoded during the previous step."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from diffusability.data.folder import FolderImages
from diffusability.data.images import ImageSet, to_float
from diffusability.nn.transfer import to_device
from diffusability.study.core.fingerprint import derive_seed
from diffusability.training.run import Batch


class TrainingImages:
    """The images of a split, batch by batch, as floats on the device.

    Attributes:
        held: (n, C, H, W) uint8 on the device, for a data set in memory; None for an image
            folder.
    """

    def __init__(
        self, data: ImageSet, chosen: Tensor, device: str | torch.device, seed: int
    ) -> None:
        """Choose images, (n,) int64 of the dataset; `seed` is for random crops."""
        self.held: Tensor | None = None
        self._rows, self._chosen = data.images, chosen
        self._device, self._seed = torch.device(device), seed
        self._reader = ThreadPoolExecutor(1)  # the thread starts with the first batch to read ahead
        self._ahead: tuple[int, Tensor, Future[Tensor]] | None = None
        if isinstance(data.images, Tensor):
            self.held = data.images[chosen].to(self._device)

    def __len__(self) -> int:
        """Return the number n of chosen images."""
        return len(self._chosen)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the (b, C, H, W) images of a batch, and start decoding the next ones."""
        if self.held is not None:
            return to_float(self.held[to_device(batch.picked, self._device)])
        images = self._decoded(batch.step, batch.picked)  # (b, C, H, W) uint8
        if batch.upcoming is not None:
            # with accumulation the next part can belong to the same step
            same = len(batch.picked) < len(batch.indices)
            same = same and bool(torch.isin(batch.upcoming, batch.indices).all())
            step = batch.step if same else batch.step + 1
            reading = self._reader.submit(self._decode, step, batch.upcoming)
            self._ahead = step, batch.upcoming, reading
        return to_float(to_device(images, self._device))

    def _decoded(self, step: int, picked: Tensor) -> Tensor:
        """Return the batch read ahead, or decode the batch now if it is a different one."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == step and torch.equal(ahead[1], picked):
            return ahead[2].result()
        return self._decode(step, picked)

    def _decode(self, step: int, picked: Tensor) -> Tensor:
        """Return the (b, C, H, W) uint8 images of a step, whenever it is decoded."""
        images = self._chosen[picked]
        if not isinstance(self._rows, FolderImages) or not self._rows.random:
            return self._rows[images]
        seeds = [derive_seed("crop", self._seed, step, number) for number in images.tolist()]
        return self._rows.random_crops(images, seeds)
