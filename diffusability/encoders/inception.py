"""Inception-v3 of the original FID: torch-fidelity's network with weights from a local file."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusability.data.images import ImageSet
from diffusability.encoders.interface import Encoder
from diffusability.encoders.load import WEIGHTS, PublishedWeights
from diffusability.encoders.packages import import_extra
from diffusability.errors import ArtifactError
from diffusability.study.entries.encoder import InceptionEncoder

FEATURES, CLASSES, SPATIAL_CHANNELS = 2048, 1008, 7


class Inception(PublishedWeights[InceptionEncoder]):
    """Encoders of kind inception."""

    def copy(self, source: Path, target: Path) -> None:
        """Copy torch-fidelity's weights."""
        import_inception(source, target)

    def load(self, folder: Path, data: ImageSet) -> Encoder:
        """Return the extractor."""
        return load_inception(folder / WEIGHTS)


class InceptionV3(Encoder):
    """2,048 pooled features, 1,008 logits, and the spatial features of sFID.

    Images are rounded to 8 bits, since the network is defined on them, and resized to 299 x 299 as
    TensorFlow 1 did (bilinear, no antialias). The logits leave out the bias, as the Inception
    Score's do. The classes are Inception's own: they name no class of the dataset.
    """

    grid_channels, classes = FEATURES, CLASSES

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Build the network around torch-fidelity's weights.

        Raises:
            StudyError: if torch-fidelity does not import.
            ArtifactError: if the weights are those of another network.
        """
        super().__init__()
        module = import_extra("torch_fidelity.feature_extractor_inceptionv3", "encoder inception")
        file = io.BytesIO()  # the package loads from a file, and downloads one if it gets none
        torch.save(dict(weights), file)
        file.seek(0)
        try:
            with torch.random.fork_rng(devices=[]):  # it draws weights that are then overwritten
                self.network: Any = module.FeatureExtractorInceptionV3("inception", ["2048"], file)
        except RuntimeError as error:
            raise ArtifactError(
                f"encoder inception: these are not torch-fidelity's Inception weights "
                f"({error!s:.200}); download weights-inception-2015-12-05-6726825d.pth again"
            ) from error

    def grid(self, images: Tensor) -> Tensor:
        """Return the (B, 2048, 8, 8) feature map under the pooled features."""
        return self._maps(images)[0]

    def features_and_spatial(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, 2048) pooled and (B, 2023) spatial features.

        The spatial ones are the first 7 channels of the 17 x 17 map `mixed_6/conv`, rows, columns
        and channels flattened in this order, as in the ADM evaluator's statistics.
        """
        grid, early = self._maps(images)
        spatial = early[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1)  # (B, 17, 17, 7)
        return grid.mean(dim=(2, 3)), spatial.flatten(1)

    def _maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last feature map (B, 2048, 8, 8) and `mixed_6/conv` (B, 192, 17, 17)."""
        levels = ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
        maps: dict[nn.Module, Tensor] = {}
        modules = (self.network.Mixed_7c, self.network.Mixed_6d.branch1x1)

        def keep(module: nn.Module, _inputs: object, output: Tensor) -> None:
            maps[module] = output

        hooks = [module.register_forward_hook(keep) for module in modules]
        try:
            self.network(levels.expand(-1, 3, -1, -1))  # grey images are repeated
        finally:
            for hook in hooks:
                hook.remove()
        last, early = (maps[module] for module in modules)
        return last, early

    def logits(self, features: Tensor) -> Tensor:
        """Return the (B, 1008) logits, without bias, of (B, 2048) features."""
        logits: Tensor = features @ self.network.fc.weight.T
        return logits


def import_inception(source: Path, target: Path) -> None:
    """Copy torch-fidelity's weight file into a safetensors file, after checking that it fits.

    Raises:
        StudyError: if torch-fidelity does not import.
        ArtifactError: if the file is missing, unreadable, or of another network.
    """
    try:
        weights = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ArtifactError(
            f"encoder inception: no weights at {source}; set the encoder's `weights`"
        ) from None
    except Exception as error:  # a damaged file raises errors of several kinds
        raise ArtifactError(
            f"encoder inception: {source} cannot be read ({error!s:.200})"
        ) from error
    save_file(dict(InceptionV3(weights).network.state_dict()), target)


def load_inception(file: Path) -> InceptionV3:
    """Return the network that `import_inception` wrote."""
    return InceptionV3(load_file(file))
