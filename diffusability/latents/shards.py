"""Bulk latents: shard files that can be evicted; the rule restore_latents encodes them again.

The artifact of the stage is the small `latents.json`. The shards are in results/cache/ and are no
output of any rule: a missing shard makes nothing run again that is finished.

Each shard says whose latents and which images it holds, and the hash of each of its tensors.
Opening the latents compares the former and reads headers alone. A tensor is hashed before its first
row is read, so that a metric on means reads no log-variances. `diffusability verify` hashes all.
"""

import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from diffusability.artifacts.atomic import leftovers
from diffusability.artifacts.bulk import (
    cache_folder,
    restore_command,
    shard_metadata,
    shard_name,
    shard_problem,
)
from diffusability.artifacts.hashed_tensors import read_header
from diffusability.artifacts.lock import exclusive
from diffusability.artifacts.tensors import mapped_hash, write_hashed_tensors
from diffusability.data.images import ImageSet, in_batches, to_float
from diffusability.errors import ArtifactError
from diffusability.latents.mapped import MappedLatents, MappedTensor

logger = logging.getLogger(__name__)
Moments = tuple[Tensor, Tensor]
Encode = Callable[[Tensor], Moments]


class LatentShards:
    """The shards of one latents artifact."""

    def __init__(self, artifact: Path, images: int, per_shard: int, flip: bool) -> None:
        """Name the shards of `images` images, `per_shard` a file; nothing is read.

        `artifact` is the folder of the latents artifact. With `flip` the shards hold the latents of
        the mirrored images too.
        """
        self._artifact, self._flip = artifact, flip
        self.folder = cache_folder("latents", artifact.name)
        self._bounds = [
            (start, min(start + per_shard, images)) for start in range(0, images, per_shard)
        ]

    def ensure(
        self,
        data: ImageSet,
        encode: Callable[[], Encode],
        batch: int,
        dtype: torch.dtype,
        val_means: torch.dtype | None = None,
    ) -> None:
        """Encode every shard that is missing or damaged.

        Args:
            data: the images, in the order of the shards.
            encode: returns the function from images (B, C, H, W) in -1 ... 1 to posterior mean
                and log-variance; called only if something is to be encoded.
            batch: images encoded at a time.
            dtype: of the stored mean and log-variance.
            val_means: of the means in shards that hold a validation image; None: `dtype`.
        """
        lock = self.folder / "lock"
        if not self._unusable(hashed=True) and not lock.exists():
            return
        # a lock of a job that was killed is removed; one that is held may be of another study,
        # which has the same latents under another name
        with exclusive(lock, str(self.folder), wait=math.inf):
            missing = self._unusable(hashed=True)
            for left in leftovers(self.folder):  # of a job that was killed
                left.unlink(missing_ok=True)
            encoder = encode() if missing else None
            for k in missing:
                assert encoder is not None
                self._write(k, data, encoder, batch, dtype, val_means or dtype)
                logger.info("encoded shard %d of %d", k + 1, len(self))

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self._bounds)

    def missing(self) -> list[int]:
        """Return the indices of shards that are not there, cut off, or of other latents.

        Their tensors are not read.
        """
        return self._unusable(hashed=False)

    def read(self, hashed: bool = True) -> MappedLatents:
        """Return the latents on disk, to be read where they are indexed; none may be missing.

        Unless `hashed` is false, indexing raises ArtifactError where a tensor of a shard does not
        have the bytes that were written.
        """
        headers = [read_header(self._path(k)) for k in range(len(self))]

        def mapped(name: str) -> MappedTensor:
            # on the CPU safetensors maps a file instead of reading it
            parts = [self._tensor(k, name) for k in range(len(self))]

            def check(k: int) -> None:
                header = headers[k]
                if mapped_hash(header.layouts[name], parts[k]) != header.hashes.get(name):
                    raise ArtifactError(
                        f"{self._path(k)}: was altered (`{name}` has other bytes than were "
                        f"written). Encode it again with: {restore_command(self._artifact)}"
                    )

            dtype = torch.int64 if name == "labels" else torch.float32
            return MappedTensor(parts, dtype, check if hashed else None)

        return MappedLatents(
            mapped("mean"),
            mapped("logvar"),
            mapped("labels")[slice(None)],
            mapped("foreground"),
            (mapped("mirrored_mean"), mapped("mirrored_logvar")) if self._flip else None,
        )

    def _path(self, k: int) -> Path:
        return self.folder / shard_name(k)

    def _tensor(self, k: int, name: str) -> Tensor:
        with safe_open(self._path(k), "pt") as shard:
            tensor: Tensor = shard.get_tensor(name)
            return tensor

    def _unusable(self, hashed: bool) -> list[int]:
        found = []
        for k, bounds in enumerate(self._bounds):
            path = self._path(k)
            metadata = shard_metadata(self._artifact.name, bounds)
            problem = shard_problem(path, metadata, hashed)
            if problem:
                found.append(k)
                if path.exists():
                    logger.warning("%s: %s", path, problem)
        return found

    def _write(
        self,
        k: int,
        data: ImageSet,
        encode: Encode,
        batch: int,
        dtype: torch.dtype,
        val_means: torch.dtype,
    ) -> None:
        start, stop = self._bounds[k]
        numbers = torch.arange(start, stop)
        images = in_batches(data.images, numbers, batch)
        mean, logvar = _encode_all(images, encode)  # (n, C, h, w) each
        measured = bool(data.validation[start:stop].any())
        tensors = {
            "mean": mean.to(val_means if measured else dtype),
            "logvar": logvar.to(dtype),
            "labels": data.labels[start:stop],
            "foreground": pool_masks(data.masks[start:stop], mean.shape[-2:]),
        }
        if self._flip:
            mirrored = (part.flip(3) for part in in_batches(data.images, numbers, batch))
            moments = _encode_all(mirrored, encode)
            mean, logvar = (m.to(dtype) for m in moments)
            tensors |= {"mirrored_mean": mean, "mirrored_logvar": logvar}
        metadata = shard_metadata(self._artifact.name, (start, stop))
        write_hashed_tensors(self._path(k), tensors, metadata)


def _encode_all(batches: Iterable[Tensor], encode: Encode) -> Moments:
    """Return mean and log-variance of (B, C, H, W) uint8 batches."""
    # latents on disk are found by numbers in the place of images, which stay as they are
    moments = [encode(to_float(p) if p.dtype == torch.uint8 else p) for p in batches]
    mean, logvar = (torch.cat(parts) for parts in zip(*moments, strict=True))
    return mean, logvar


def pool_masks(masks: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
    """Return the (N, h, w) float32 share of foreground pixels of (N, H, W) bool masks."""
    pooled = F.adaptive_avg_pool2d(masks[:, None].float(), (grid[0], grid[1]))  # (N, 1, h, w)
    return pooled[:, 0].contiguous()
