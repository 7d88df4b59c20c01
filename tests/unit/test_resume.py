"""A diffusion run that is killed, stopped, out of time or moved ends in the same bits."""

import os
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from diffusability.errors import TrainingInterrupted
from diffusability.training.checkpoint import load_checkpoint
from diffusability.training.loop import train
from diffusability.training.run import Run
from tests.conftest import REPOSITORY
from tests.unit.small_diffusion import NETWORKS, assert_same, small_run, weights


def stop_at(step: int, name: str, folder: Path, network: str) -> subprocess.CompletedProcess[str]:
    """Train in `folder` by a relative path, in a process that gets the signal at a step."""
    command = [sys.executable, "-m", "tests.unit.small_diffusion", network]
    return subprocess.run(
        [*command, "--stop", str(step), name],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("network", "name"),
    [
        *product(NETWORKS, ["SIGKILL"]),
        pytest.param("sit", "SIGTERM"),
        *(pytest.param(x, "SIGTERM", marks=pytest.mark.release) for x in NETWORKS if x != "sit"),
        pytest.param("sit", "SIGINT", marks=pytest.mark.release),
    ],
)
def test_stopped_and_moved_run_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, name: str
) -> None:
    step = 1 + int.from_bytes(os.urandom(1)) % 7  # a random step; messages name it
    before, after = tmp_path / "before", tmp_path / "elsewhere" / "after"
    before.mkdir()
    result = stop_at(step, name, before, network)
    if name == "SIGKILL":
        assert result.returncode == -signal.SIGKILL, result.stderr
    else:
        assert result.returncode == 75, result.stderr
        assert f"stopped by {name}; saved step {step + 1} of 9 in {network}" in result.stderr
    after.parent.mkdir()
    before.rename(after)
    monkeypatch.chdir(after)
    checkpoint = load_checkpoint(Path(network))
    assert checkpoint is not None
    assert checkpoint.step == step + (name != "SIGKILL")
    resumed, whole = train(small_run(Path(network), network)), train(small_run(tmp_path, network))
    assert_same(weights(resumed), weights(whole))
    assert resumed.history == whole.history, f"{name} at step {step}"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_run_out_of_time_again_and_again_ends_in_the_same_bits(
    tmp_path: Path, network: str, precision: str
) -> None:
    def run(state: str, minutes: float | None = None, precision: str = precision) -> Run:
        return small_run(tmp_path / state, network, minutes=minutes, precision=precision)

    for step in range(1, 9):
        with pytest.raises(TrainingInterrupted, match=rf"time is up; saved step {step} of 9"):
            train(run("parts", minutes=0.0))
    resumed, whole = train(run("parts", minutes=0.0)), train(run("whole"))
    assert_same(weights(resumed), weights(whole))
    other = weights(train(run("other", precision="bf16" if precision == "fp32" else "fp32")))
    assert any(not torch.equal(other[name], value) for name, value in weights(whole).items())
