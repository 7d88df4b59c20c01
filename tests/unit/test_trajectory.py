"""Trajectory statistics against straight lines, the Gaussian flow and a slow loop."""

import math

import pytest
import torch
from torch import Tensor

from diffusability.diffusion.sampler import draw_noise, integrate, time_grid
from diffusability.errors import MeasurementError
from diffusability.metrics.trajectory import TrajectoryMoments, TrajectoryRecorder
from tests.oracles.gaussian_flow import GaussianFlow

M = 50


def record(path: Tensor, batch: int | None = None) -> TrajectoryMoments:
    """Return the moments of trajectories path (n, M + 1, d), fed batch by batch."""
    recorder = TrajectoryRecorder(path.shape[1] - 1)
    for part in path.split(batch or len(path)):
        for i in range(path.shape[1] - 1):
            recorder(i, part[:, i], part[:, i + 1])
    return recorder.moments


def values(moments: TrajectoryMoments) -> dict[str, float]:
    return {m.metric: m.value for m in moments.measurements()}


def random_paths(n: int, steps: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(n, 1, 6, generator=generator, dtype=torch.float64)
    jitter = torch.randn(n, steps + 1, 6, generator=generator, dtype=torch.float64)
    return (drift + jitter).cumsum(dim=1)


# --- closed forms ----------------------------------------------------------------------------


def test_a_straight_line_is_straight_efficient_and_even():
    line = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None] * torch.tensor([3.0, -4.0])
    moments = record(line.expand(2, 11, 2))
    assert values(moments) == {
        "trajectory.straightness": pytest.approx(1),
        "trajectory.efficiency": pytest.approx(1),
        "trajectory.angle": pytest.approx(0, abs=1e-6),
    }
    assert torch.allclose(moments.length_ratio()[0], torch.ones(10, dtype=torch.float64))


def test_a_regular_polygon_has_the_angles_of_a_circle():
    # a half circle in 12 chords: each step turns by 15 degrees
    turns = torch.arange(13, dtype=torch.float64) * math.pi / 12
    moments = record(torch.stack((turns.cos(), turns.sin()), dim=1)[None])
    got = values(moments)
    chord = 2 * math.sin(math.pi / 24)
    assert got["trajectory.angle"] == pytest.approx(15, abs=1e-9)
    assert got["trajectory.straightness"] == pytest.approx(math.cos(math.pi / 12), abs=1e-12)
    assert got["trajectory.efficiency"] == pytest.approx(2 / (12 * chord), abs=1e-12)
    assert moments.stderr is None
    assert moments.measurements()[0].stderr is None


def test_uneven_speed_shows_in_the_length_ratio_alone():
    line = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64).view(1, 3, 1)
    moments = record(line)
    assert moments.length_ratio()[0].tolist() == pytest.approx([0.5, 1.5])
    assert values(moments)["trajectory.efficiency"] == pytest.approx(1)


def gaussian_oracle(variance: float, d: int = 512) -> GaussianFlow:
    """Data of variance `variance` around a mean whose entries have variance 0.75."""
    mean = torch.full((d,), math.sqrt(0.75), dtype=torch.float64)
    return GaussianFlow(mean, torch.full((d,), variance, dtype=torch.float64))


@pytest.mark.parametrize(
    ("variance", "straightness", "efficiency", "first", "least"),
    [(0.25, 0.9994, 0.918, 1.32, 0.87), (1.0, 0.9992, 0.806, 1.52, 1.00)],
)
def test_gaussian_flow_has_its_known_statistics(variance, straightness, efficiency, first, least):
    flow = gaussian_oracle(variance)
    limit = flow.trajectory_limit(time_grid(M))
    start = draw_noise(0, range(256), (512,)).double()
    path = torch.stack([flow.flow_map(start, t) for t in time_grid(M)], dim=1)  # (256, M + 1, d)
    moments = record(path, 64)
    got = values(moments)
    for found in (limit[0], got["trajectory.straightness"]):
        assert found == pytest.approx(straightness, abs=6e-5)
    for found in (limit[1], got["trajectory.efficiency"]):
        assert found == pytest.approx(efficiency, abs=1e-3)
    for ratio in (limit[2], moments.length_ratio()[0]):
        assert ratio[0].item() == pytest.approx(first, abs=0.01)
        assert ratio.min().item() == pytest.approx(least, abs=0.01)
        assert ratio.mean().item() == pytest.approx(1 / efficiency, rel=2e-3)
    if variance == 1:  # symmetric in time
        assert torch.allclose(limit[2], limit[2].flip(0))


def test_euler_samples_of_the_gaussian_flow_come_close_to_the_exact_ones():
    flow = gaussian_oracle(0.25)
    recorder = TrajectoryRecorder(M)
    for part in range(2):
        start = draw_noise(0, range(64 * part, 64 * part + 64), (512,)).double()
        integrate(flow.velocity, start, M, on_step=recorder)
    straightness, efficiency, ratios = flow.trajectory_limit(time_grid(M))
    got = values(recorder.moments)
    assert recorder.moments.count == 128
    assert got["trajectory.straightness"] == pytest.approx(straightness, abs=1e-4)
    assert got["trajectory.efficiency"] == pytest.approx(efficiency, abs=5e-3)
    # Euler's steps lag by half a step
    assert torch.allclose(recorder.moments.length_ratio()[0], ratios, atol=0.03)


# --- a slow loop -----------------------------------------------------------------------------


def test_statistics_equal_a_loop_over_trajectories():
    paths = random_paths(5, 7)
    rows = []
    for path in paths:
        steps = [path[i + 1] - path[i] for i in range(7)]
        cosines = [
            float(steps[i] @ steps[i + 1] / (steps[i].norm() * steps[i + 1].norm()))
            for i in range(6)
        ]
        whole = float((path[7] - path[0]).norm())
        total = sum(float(s.norm()) for s in steps)
        angle = sum(math.degrees(math.acos(c)) for c in cosines) / 6
        ratios = [7 * float(s.norm()) / whole for s in steps]
        rows.append([sum(cosines) / 6, whole / total, angle, *ratios])
    table = torch.tensor(rows, dtype=torch.float64)  # (5, 10)
    moments = record(paths)
    assert torch.allclose(moments.mean, table.mean(dim=0), rtol=1e-12)
    assert torch.allclose(moments.stderr, table.std(dim=0) / math.sqrt(5), rtol=1e-10)
    for k, measurement in enumerate(moments.measurements({"solver": "euler"})):
        assert measurement.value == pytest.approx(table[:, k].mean().item())
        assert measurement.stderr == pytest.approx(table[:, k].std().item() / math.sqrt(5))
        assert measurement.n == 5
        assert measurement.options == {"steps": 7, "solver": "euler"}
    curve, errors = moments.length_ratio()
    assert torch.allclose(curve, table[:, 3:].mean(dim=0))
    assert torch.allclose(errors, table[:, 3:].std(dim=0) / math.sqrt(5))


# --- properties ------------------------------------------------------------------------------


def test_batches_order_and_merging_do_not_matter():
    paths = random_paths(11, 6)
    whole = record(paths)
    for other in (
        record(paths, 4),
        record(paths, 1),
        record(paths.flip(0), 3),
        record(paths[:2]).merge(record(paths[2:])),
    ):
        assert other.count == 11
        assert torch.allclose(other.mean, whole.mean, rtol=1e-13)
        assert torch.allclose(other.scatter, whole.scatter, rtol=1e-10)


def test_shape_scale_and_precision_of_the_latent_do_not_matter():
    paths = random_paths(4, 6)
    whole = record(paths)
    assert torch.allclose(record(1000 * paths).mean, whole.mean, rtol=1e-12)
    assert torch.allclose(record(paths.view(4, 7, 3, 2, 1)).mean, whole.mean, rtol=1e-13)
    assert torch.allclose(record(paths.float()).mean, whole.mean, rtol=1e-4)
    turned = torch.linalg.qr(random_paths(1, 5, seed=1)[0])[0]  # (6, 6) orthogonal
    assert torch.allclose(record(paths @ turned).mean, whole.mean, rtol=1e-10)


def test_trajectories_that_carry_no_statistics_are_refused():
    paths = random_paths(2, 4)
    with pytest.raises(MeasurementError, match="2 steps"):
        TrajectoryRecorder(1)
    with pytest.raises(MeasurementError, match="no trajectory"):
        _ = TrajectoryRecorder(4).moments
    recorder = TrajectoryRecorder(4)
    recorder(0, paths[:, 0], paths[:, 1])
    with pytest.raises(MeasurementError, match="step 2 of 4"):
        recorder(2, paths[:, 2], paths[:, 3])
    with pytest.raises(MeasurementError, match="step 0 has a length"):
        TrajectoryRecorder(4)(0, paths[:, 0], paths[:, 0])
    with pytest.raises(MeasurementError, match="not finite"):
        TrajectoryRecorder(4)(0, paths[:, 0], paths[:, 1] * float("nan"))
    with pytest.raises(MeasurementError, match="merged"):
        record(paths).merge(record(random_paths(2, 5)))
