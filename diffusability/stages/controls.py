"""Sample sources without a diffusion model, which say what its samples are to be compared with.

Each draws latents of one tokenizer, which are decoded and measured like any other samples:

- `noise`: N(0, I) in z-scored latents, where a diffusion model starts. No class; labels are
  balanced, so its class accuracy is what the judge gives by chance.
- `gaussian`: one Gaussian per class, as VIV assumes (`metrics.class_gaussians`), fitted to the
  posterior means of the train split. Labels are balanced over the classes of that split.
- `posterior`: posterior samples of images of the val split, with their own classes: the
  tokenizer's floor. Where fewer are asked for than there are images, each class has its share;
  where more are, images repeat with new noise.
"""

from collections.abc import Callable
from typing import assert_never

import torch
from torch import Tensor

from diffusability.data.images import ImageSet, thinned
from diffusability.diffusion.sampler import balanced_labels, draw_noise
from diffusability.latents.channel_statistics import ChannelStatistics
from diffusability.metrics.class_gaussians import fit_class_gaussians
from diffusability.stages.inputs import Inputs
from diffusability.study.core.fingerprint import derive_seed
from diffusability.study.core.spec import Spec
from diffusability.study.metrics.generation import Control

Draw = Callable[[range], tuple[Tensor, Tensor]]  # (B, C, H, W) latents, (B,) labels


class ControlOptions(Spec):
    """How one set of images is generated without a diffusion model.

    `revision` is 2 for `posterior`, since few images of many are chosen class by class.
    """

    control: Control
    count: int
    revision: int = 1


def control_source(inputs: Inputs, spec: ControlOptions) -> Draw:
    """Return what draws the latents of given sample indices, on the CPU, and their labels.

    A draw depends on the sampling seed and the index alone.
    """
    match spec.control:
        case "noise":
            return _noise(inputs)
        case "gaussian":
            return _gaussian(inputs)
        case "posterior":
            return _posterior(inputs, spec.count)
        case _:
            assert_never(spec.control)


def _noise(inputs: Inputs) -> Draw:
    stated = inputs.json("latents", "latents.json")["channel_statistics"]
    statistics = ChannelStatistics.from_json(stated)
    mean, std = (x.float()[:, None, None] for x in (statistics.mean, statistics.std))  # (C, 1, 1)

    def draw(indices: range) -> tuple[Tensor, Tensor]:
        labels = balanced_labels(indices, inputs.data.num_classes)
        return _draw_noise(inputs, indices) * std + mean, labels

    return draw


def _gaussian(inputs: Inputs) -> Draw:
    train = inputs.data.split("train")
    fit = fit_class_gaussians(inputs.latents.mean[train], inputs.latents.labels[train])

    def draw(indices: range) -> tuple[Tensor, Tensor]:
        labels = fit.classes[balanced_labels(indices, len(fit.classes))]
        return fit.draw(_draw_noise(inputs, indices), labels), labels

    return draw


def _posterior(inputs: Inputs, count: int) -> Draw:
    images = posterior_images(inputs.data, count)

    def draw(indices: range) -> tuple[Tensor, Tensor]:
        chosen = inputs.latents[images[torch.as_tensor(indices)]]
        noise = _draw_noise(inputs, indices)
        return chosen.mean + torch.exp(0.5 * chosen.logvar) * noise, chosen.labels

    return draw


def posterior_images(data: ImageSet, count: int) -> Tensor:
    """Return the (count,) images of the dataset that `posterior` encodes, sample by sample.

    At most as many as the val split has are of each class in proportion, also where classes
    alternate; for more, the whole split repeats.
    """
    val = data.split("val")
    if count <= len(val):
        return thinned(val, count, data.labels[val])
    return val[torch.arange(count) % len(val)]


def _draw_noise(inputs: Inputs, indices: range) -> Tensor:
    """Return (B, C, H, W) standard normal noise, other than that of diffusion models."""
    shape = tuple(inputs.latents.mean.shape[1:])
    return draw_noise(derive_seed("control noise", inputs.job.seed), indices, shape)
