"""Bulk latents: shard files that can be evicted; the rule restore_latents encodes them again.

The artifact of the stage is the small `latents.json`. The shards are in results/cache/, each with a
note of its hash, and are no output of any rule: a missing shard makes nothing run again that is
finished.
"""

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from diffusability.artifacts.atomic import sha256, write_bytes, write_json
from diffusability.artifacts.bulk import cache_folder, shard_name
from diffusability.artifacts.lock import exclusive
from diffusability.data.images import ImageSet, in_batches, to_float
from diffusability.latents.mapped import MappedLatents, MappedTensor

logger = logging.getLogger(__name__)
GLANCE = 1.0  # seconds; who looks whether a lock is held takes it for an instant
Moments = tuple[Tensor, Tensor]
Encode = Callable[[Tensor], Moments]


class LatentShards:
    """The shards of one latents artifact."""

    def __init__(self, fingerprint: str, images: int, per_shard: int, flip: bool) -> None:
        """Name the shards of `images` images, `per_shard` a file; nothing is read.

        With `flip` they hold the latents of the mirrored images too.
        """
        self._flip = flip
        self.folder = cache_folder("latents", fingerprint)
        self._bounds = [
            (start, min(start + per_shard, images)) for start in range(0, images, per_shard)
        ]

    def ensure(
        self, data: ImageSet, encode: Callable[[], Encode], batch: int, dtype: torch.dtype
    ) -> None:
        """Encode every shard that is missing or damaged.

        Args:
            data: the images, in the order of the shards.
            encode: returns the function from images (B, C, H, W) in -1 ... 1 to posterior mean
                and log-variance; called only if something is to be encoded.
            batch: images encoded at a time.
            dtype: of the stored mean and log-variance.

        Raises:
            ArtifactBusyError: another process writes or removes them.
        """
        missing = self.missing()
        if not missing:
            return
        with exclusive(self.folder / "lock", str(self.folder), wait=GLANCE):
            encoder = encode()
            for k in missing:
                self._write(k, data, encoder, batch, dtype)
                logger.info("encoded shard %d of %d", k + 1, len(self))

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self._bounds)

    def missing(self) -> list[int]:
        """Return the indices of shards that are not there or not as they were written."""
        return [k for k in range(len(self)) if not self._intact(k)]

    def read(self) -> MappedLatents:
        """Return the latents on disk, to be read where they are indexed; none may be missing."""
        # on the CPU safetensors maps a file instead of reading it
        parts = [load_file(self._path(k)) for k in range(len(self))]

        def mapped(name: str) -> MappedTensor:
            return MappedTensor([part[name] for part in parts], torch.float32)

        return MappedLatents(
            mapped("mean"),
            mapped("logvar"),
            torch.cat([part["labels"] for part in parts]),
            mapped("foreground"),
            (mapped("mirrored_mean"), mapped("mirrored_logvar")) if self._flip else None,
        )

    def _path(self, k: int) -> Path:
        return self.folder / shard_name(k)

    def _note(self, k: int) -> Path:
        return self._path(k).with_suffix(".json")

    def _intact(self, k: int) -> bool:
        try:
            note = json.loads(self._note(k).read_text())
            path = self._path(k)
            same = path.stat().st_size == note["bytes"] and sha256(path) == note["sha256"]
            bounds = list(self._bounds[k])
            same = same and note.get("images", bounds) == bounds  # older notes do not say it
        except (OSError, ValueError, KeyError):
            return False
        if not same:
            logger.warning("%s was altered or moved", path)
        return same

    def _write(
        self, k: int, data: ImageSet, encode: Encode, batch: int, dtype: torch.dtype
    ) -> None:
        start, stop = self._bounds[k]
        numbers = torch.arange(start, stop)
        images = in_batches(data.images, numbers, batch)
        mean, logvar = (m.to(dtype) for m in _encode_all(images, encode))  # (n, C, h, w)
        tensors = {
            "mean": mean.contiguous(),
            "logvar": logvar.contiguous(),
            "labels": data.labels[start:stop].contiguous(),
            "foreground": pool_masks(data.masks[start:stop], mean.shape[-2:]),
        }
        if self._flip:
            mirrored = (part.flip(3) for part in in_batches(data.images, numbers, batch))
            moments = _encode_all(mirrored, encode)
            mean, logvar = (m.to(dtype) for m in moments)
            tensors |= {"mirrored_mean": mean.contiguous(), "mirrored_logvar": logvar.contiguous()}
        self._note(k).unlink(missing_ok=True)
        write_bytes(self._path(k), save(tensors))
        path = self._path(k)
        size = path.stat().st_size
        note = {"sha256": sha256(path), "bytes": size, "images": [start, stop]}
        write_json(self._note(k), note)


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
