"""Every latent metric on a GPU against the CPU."""

import pytest
import torch

from tests.unit.latent_metric_cases import CASES, latent_set

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"
)


@pytest.mark.parametrize("perspective", CASES)
def test_a_gpu_and_a_cpu_agree(perspective: str):
    found = CASES[perspective](*latent_set("cuda"))
    expected = CASES[perspective](*latent_set("cpu"))
    assert [m.metric for m in found] == [m.metric for m in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4, abs=1e-8), one.metric
        assert one.stderr == pytest.approx(other.stderr, rel=1e-4, abs=1e-8), one.metric
