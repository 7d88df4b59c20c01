"""What an analysis may be told."""

from dataclasses import dataclass
from typing import Protocol


class Analysis(Protocol):
    """What an analysis may be told; ``AnalysisSpec`` of a study has these attributes."""

    @property
    def resamples(self) -> int: ...
    @property
    def confidence(self) -> float: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class AnalysisOptions:
    """Bootstrap draws (and permutations), confidence of intervals, seed of both."""

    resamples: int = 9999
    confidence: float = 0.95
    seed: int = 0
