"""Every latent metric keeps to the device of its latents: a GPU's rules, checked without one."""

import numpy as np
import pytest
import torch

from diffusability.metrics.kernel_distance import measure_kernel_distance
from diffusability.metrics.precision_recall import measure_precision_recall
from tests.unit.latent_metric_cases import CASES, latent_set
from tests.unit.pretend_device import DEVICE, DeviceMismatchError, PretendDevice


@pytest.mark.parametrize("perspective", CASES)
def test_a_metric_never_mixes_devices(perspective: str):
    expected = CASES[perspective](*latent_set("cpu"))
    with PretendDevice() as pretend:
        latents, labels, masks = latent_set(DEVICE)
        assert pretend.on(latents)
        found = CASES[perspective](latents, labels, masks)
    assert [m.metric for m in found] == [m.metric for m in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-9, abs=1e-12), one.metric
        assert (one.stderr is None) == (other.stderr is None), one.metric
        if other.stderr is not None:
            assert one.stderr == pytest.approx(other.stderr, rel=1e-6, abs=1e-9), one.metric


def test_features_are_compared_on_their_device():
    def compared(place: str) -> list[float]:
        draws = torch.Generator().manual_seed(0)
        real, generated = (torch.rand(60, 5, generator=draws).to(place) for _ in range(2))
        sets = {"extractor": "judge", "generator": draws, "generated": generated}
        found = measure_precision_recall(real=real, **sets)
        found.append(measure_kernel_distance(reference=real, **sets))
        return [number for m in found for number in (m.value, m.stderr)]

    expected = compared("cpu")
    with PretendDevice():
        assert compared(DEVICE) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x + torch.arange(3),
        lambda x: x @ torch.eye(3, dtype=x.dtype),
        lambda x: torch.cat([x, torch.zeros(2, 3)]),
        lambda x: torch.zeros(3)[x[0].long()],
        lambda x: torch.zeros_like(x).index_add_(0, torch.tensor([0, 1]), x),
        lambda x: torch.linalg.solve_triangular(x[:, :2], torch.eye(2), upper=True),
        lambda x: torch.where(x > 0, x, torch.zeros(3)),
        lambda x: [row * torch.ones(3) for row in x],
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: torch.rand(3, generator=torch.Generator(), device=x.device),
        lambda x: torch.randperm(3, generator=torch.Generator(), device=x.device),
        lambda x: x.new_empty(3).normal_(generator=torch.Generator()),
        lambda x: x.cpu() + x,
    ],
)
def test_what_a_gpu_refuses_is_refused(mistake):
    with PretendDevice():
        x = torch.ones(2, 3, device=DEVICE)
        with pytest.raises(DeviceMismatchError):
            mistake(x)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x + torch.tensor(2.0),  # a number of the CPU goes with any device
        lambda x: x[torch.tensor([0, 1])],  # and so does an index
        lambda x: x + torch.arange(3, device=x.device),
        lambda x: x + torch.rand(3, generator=torch.Generator()).to(x),
        lambda x: torch.stack(list(x)).mT @ torch.zeros_like(x),
        lambda x: torch.linalg.eigh(x.mT @ x).eigenvectors @ x.mT,
        lambda x: x.to(torch.float64) + x.new_zeros(3),
    ],
)
def test_what_a_gpu_takes_is_taken_and_stays_there(use):
    with PretendDevice() as pretend:
        result = use(torch.ones(2, 3, device=DEVICE))
        assert pretend.on(result)
        assert result.device == DEVICE
        assert not pretend.on(result.cpu())
        assert result.cpu().numpy().shape == result.shape
