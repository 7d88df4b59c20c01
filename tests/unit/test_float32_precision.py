"""TF32: where it is allowed, how it is turned off, and that a CPU job sets nothing."""

from collections.abc import Iterator

import pytest
import torch

from diffusability.errors import StudyError
from diffusability.stages.precision import VARIABLE, set_float32_precision
from diffusability.study.planning.stages import IN_TF32, STAGES


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the settings of this process."""
    monkeypatch.delenv(VARIABLE, raising=False)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def settings() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("stage", STAGES)
def test_training_and_sampling_alone(stage: str) -> None:
    allowed = set_float32_precision(stage, "cuda")
    assert allowed == (stage in ("encoder", "tokenizer", "diffusion", "samples"))
    assert set(IN_TF32) <= set(STAGES)
    assert settings() == (("high", True) if allowed else ("highest", False))


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    assert not set_float32_precision("diffusion", "cuda:1")
    assert settings() == ("highest", False)
    monkeypatch.setenv(VARIABLE, "no")
    with pytest.raises(StudyError, match="DIFFUSABILITY_TF32 is 'no'; 1 allows"):
        set_float32_precision("diffusion", "cpu")


def test_a_cpu_job_sets_nothing() -> None:
    before = settings()
    assert not set_float32_precision("diffusion", "cpu")
    assert settings() == before
