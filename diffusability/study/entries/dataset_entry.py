"""What every kind of dataset states, and the registry of kinds, which `dataset.py` completes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from diffusability.study.core.fingerprint import canonical_json
from diffusability.study.core.registry import Registry
from diffusability.study.core.spec import Spec
from diffusability.study.core.user_cache import cached, recall, remember


@dataclass(frozen=True)
class ImageCounts:
    """How many images a dataset holds, as far as its entry says."""

    train: int
    val: int

    def of(self, split: Literal["train", "val", "all"]) -> int:
        """Return the number in a split."""
        return {"train": self.train, "val": self.val, "all": self.train + self.val}[split]


class Dataset(Spec):
    """What every kind of dataset states; a kind is declared with its `DataSource`.

    Attributes:
        has_images: whether there are images; else only labels and masks of latents on disk.
    """

    has_images: ClassVar[bool] = True

    kind: str
    size: int = Field(description="side of the square images in pixels")
    if TYPE_CHECKING:  # a kind fixes the number, or makes it an option

        @property
        def num_classes(self) -> int:
            """Number of classes."""
            ...

    @property
    def image_channels(self) -> int:
        """Colour images; grey ones are repeated."""
        return 3

    def counts(self) -> ImageCounts:
        """Return the number of images per split, for estimates of cost."""
        raise NotImplementedError(f"dataset of kind {self.kind}: state its counts")


class FilesDataset(Dataset):
    """A dataset whose fingerprint has the content of its files in the place of their paths."""

    if TYPE_CHECKING:  # each states what it is the SHA-256 of
        content: str | None

    @model_validator(mode="after")
    def _one_data_set(self) -> Self:
        self.files()  # raises ValueError where a folder holds several
        return self

    def canonical(self) -> dict[str, Any]:
        """Return the resolved values with the content of the files.

        They are read when this is asked first: a study may declare data sets that it does not use.
        """
        return super().canonical() | {"content": self.content or self._last_content()}

    def _last_content(self) -> str | None:
        """Return the SHA-256 of the files; while one is missing, the last that they had here."""
        places = [place for key in self.place_keys() if (place := getattr(self, key)) is not None]
        named = canonical_json([self.kind, *(str(Path(place).absolute()) for place in places)])
        memory = cached("content", f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.files.json")
        found, known = self.content_now(), recall(memory).get("content")
        if found is None:
            return known if isinstance(known, str) else None
        if found != known:
            remember(memory, {"content": found})
        return found

    def files(self) -> Any:
        """Return the files, in a fixed order."""
        raise NotImplementedError(f"dataset of kind {self.kind}: state its files")

    def content_now(self) -> str | None:
        """Return the SHA-256 of the files as they are now; None where one is missing."""
        raise NotImplementedError(f"dataset of kind {self.kind}: state its content")


DATASETS: Registry[Dataset] = Registry("dataset", "kind")
