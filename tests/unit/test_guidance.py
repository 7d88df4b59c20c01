"""Classifier-free guidance: its algebra, its cost, its interval."""

from types import SimpleNamespace

import pytest
import torch

from diffusability.diffusion.guidance import guided_denoiser, guided_velocity
from diffusability.diffusion.training_loss import FlowMatchingLoss
from diffusability.diffusion.transformer import SiT
from diffusability.errors import StudyError
from tests.unit.networks import diffusion

NULL = 10


class Counted:
    """A network whose velocity is a known function of its inputs; counts calls and rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x, t, y):
        self.rows.append(len(x))
        return x * (1 + y[:, None, None, None]) + t[:, None, None, None]


def latents(n: int = 3, channels: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, channels, 2, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 2.0, 7.0])
def test_guidance_extrapolates_every_channel(scale):
    x, labels = latents(), torch.tensor([0, 3, 7])
    out = guided_velocity(Counted(), labels, NULL, scale)(x, 0.25)
    conditional = x * (1 + labels[:, None, None, None]) + 0.25
    unconditional = x * (1 + NULL) + 0.25
    expected = unconditional + scale * (conditional - unconditional)
    assert torch.allclose(out, expected, atol=1e-12)
    change = (out - conditional).abs().flatten(2).amax(dim=2)  # (B, C)
    assert bool((change > 1e-3).all())


@pytest.mark.parametrize("bind", [guided_velocity, guided_denoiser])
def test_guidance_of_the_first_channels_leaves_the_others_conditional(bind):
    x, labels = latents(), torch.tensor([0, 3, 7])
    plain, whole = (bind(Counted(), labels, NULL, scale)(x, 0.25) for scale in (1.0, 4.0))
    found = bind(Counted(), labels, NULL, 4.0, channels=3)(x, 0.25)
    assert torch.equal(found[:, :3], whole[:, :3])
    assert torch.equal(found[:, 3:], plain[:, 3:])


def test_scale_one_costs_one_evaluation_and_is_bit_equal():
    model = diffusion(SiT, 4, (2, 2), NULL, width=16, depth=1, heads=2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    x, labels = latents(3, 4).float(), torch.tensor([0, 3, 7])
    plain = model(x, torch.full((3,), 0.5), labels)
    assert torch.equal(guided_velocity(model, labels, NULL)(x, 0.5), plain)
    counted = Counted()
    guided_velocity(counted, labels, NULL, 1.0)(x, 0.5)
    assert counted.rows == [3]
    guided_velocity(counted, labels, NULL, 2.0)(x, 0.5)
    assert counted.rows == [3, 6]


def test_guidance_acts_within_its_closed_interval_only():
    x, labels, counted = latents(), torch.tensor([0, 3, 7]), Counted()
    velocity = guided_velocity(counted, labels, NULL, 3.0, (0.25, 0.75))
    plain = guided_velocity(Counted(), labels, NULL)
    rows = {}
    for t in (0.0, 0.24, 0.25, 0.5, 0.75, 0.76, 1.0):
        out = velocity(x, t)
        rows[t] = counted.rows[-1]
        assert torch.equal(out, plain(x, t)) == (rows[t] == 3)
    assert rows == {0.0: 3, 0.24: 3, 0.25: 6, 0.5: 6, 0.75: 6, 0.76: 3, 1.0: 3}


def test_time_reaches_the_network_in_the_precision_of_the_latents():
    seen = []
    velocity = guided_velocity(lambda x, t, y: seen.append(t) or x, torch.tensor([1, 2]), NULL)
    velocity(latents(2), 0.3)
    assert seen[0].dtype == torch.float64
    assert seen[0].tolist() == [0.3, 0.3]


@pytest.mark.parametrize(
    ("scale", "interval"), [(-1.0, (0.0, 1.0)), (2.0, (0.5, 0.2)), (2.0, (-0.1, 1.0))]
)
def test_scales_and_intervals_that_mean_nothing_are_refused(scale, interval):
    with pytest.raises(StudyError, match="guidance"):
        guided_velocity(Counted(), torch.tensor([0]), NULL, scale, interval)


@pytest.mark.parametrize("labels", [[0, NULL], [-1, 2]])
def test_a_label_outside_the_classes_is_refused(labels):
    # NULL itself would pass for a class: the network has an embedding for it
    with pytest.raises(StudyError, match=rf"guidance: labels span .*outside the {NULL} classes"):
        guided_velocity(Counted(), torch.tensor(labels), NULL, 2.0)
    posteriors = SimpleNamespace(labels=torch.tensor(labels))
    model = SimpleNamespace(network=SimpleNamespace(num_classes=NULL))
    with pytest.raises(StudyError, match="training on latents: labels span"):
        FlowMatchingLoss(model, posteriors, SimpleNamespace())
