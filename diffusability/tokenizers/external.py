"""Published autoencoders of images, of any class of diffusers that its AutoModel reads.

The folder that diffusers saves states how its latents are scaled for diffusion; that convention is
applied, z = (latent - shift) · scale / std, and undone before decoding. The latent metrics and the
diffusion models of a study normalise every channel anyway, so it changes none of them.
AutoencoderRAE scales its latents by itself, and takes images in [0, 1].
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusability.artifacts.job import Job
from diffusability.artifacts.tensors import require_finite
from diffusability.data.images import ImageSet
from diffusability.encoders.packages import import_extra
from diffusability.errors import ArtifactError, StudyError
from diffusability.study.entries.tokenizer import TOKENIZER_FILES, ExternalTokenizer
from diffusability.study.sources.content import content_digest, is_digest
from diffusability.study.sources.image_channels import (
    COLOUR,
    CONFIG,
    channels_misfit,
    repeats_grey,
    taken_channels,
)
from diffusability.tokenizers.interface import UntrainedTokenizer
from diffusability.tokenizers.load import WEIGHTS, TokenizerSource
from diffusability.tokenizers.posterior import LOGVAR_RANGE, Posterior, moments_of

logger = logging.getLogger(__name__)

# class of diffusers to its module and the key of the widths, one per resolution; the shape of the
# latents of other classes is found with an image
CLASSES = {
    "AutoencoderKL": ("autoencoder_kl", "block_out_channels"),
    "AutoencoderDC": ("autoencoder_dc", "encoder_block_out_channels"),
    "AutoencoderTiny": ("autoencoder_tiny", "encoder_block_out_channels"),
}
RAE = "AutoencoderRAE"
PROBED = 64  # pixels along a side of that image
KEPT_PRIVATE = ("_class_name", "_diffusers_version")  # of the keys that diffusers adds


class Diffusers(TokenizerSource[ExternalTokenizer]):
    """Autoencoders of diffusers."""

    def make(self, job: Job, folder: Path) -> None:
        """Copy weights and configuration.

        Raises:
            ArtifactError: the folder has changed since the study was planned.
        """
        found = content_digest(self.spec.path, TOKENIZER_FILES)
        if is_digest(self.spec.content) and found not in (None, self.spec.content):
            raise ArtifactError(
                f"{self.spec.path}: its content has changed since the study was planned. Start the "
                "workflow again; what is made from it gets a new name then"
            )
        import_autoencoder(self.spec, folder)

    def load(self, folder: Path, data: ImageSet) -> "ExternalAutoencoder":
        """Return the autoencoder of an artifact's folder."""
        return load_autoencoder(folder, data.images.shape[1])


class ExternalAutoencoder(UntrainedTokenizer):
    """A published autoencoder behind the interface of the study's own tokenizers.

    AutoencoderKL and its like predict a posterior. The others are deterministic: their posterior
    has the latent as mean and the smallest log-variance that a posterior may have (-30), a standard
    deviation of 3e-7, so that a sample is the mean in single precision. A network for colour images
    takes grey ones as `study.image_channels` says.

    Attributes:
        image_size: side of the only images that it takes, in pixels; None: any whole grid.
    """

    network: Any  # of a package that has no types
    shift: Tensor
    scale: Tensor

    def __init__(
        self, network: nn.Module, config: Mapping[str, Any], image_channels: int | None = None
    ) -> None:
        """Wrap a network of diffusers.

        Args:
            network: of a class with encode and decode.
            config: its configuration, with `_class_name`.
            image_channels: of the images that it is for; None: as many as the network takes.

        Raises:
            StudyError: if images go in and come out with different numbers of channels, or have
                another number, or the scale of the latents is no positive number.
        """
        super().__init__()
        self.network = network
        name = config["_class_name"]
        taken = taken_channels(config)
        returned = config.get("out_channels", taken)
        if returned != taken:
            raise StudyError(
                f"{name}: {taken} image channels go in and {returned} come out; only autoencoders "
                "of equal channels can be tokenizers"
            )
        self.image_channels = taken if image_channels is None else image_channels
        if reason := channels_misfit(taken, self.image_channels):
            raise StudyError(f"{name}: {reason}")
        self._repeats = repeats_grey(taken, self.image_channels)
        self.own_scale = name == RAE
        self.image_size = fixed_size(config)
        stated = _stated_shape(config)
        if stated is not None:
            self._factor, self.latent_channels = stated
        else:
            latent, _ = _encoded_probe(network, taken, name)
            self._factor, self.latent_channels = PROBED // latent.shape[-1], latent.shape[1]
        known = {**config, "latent_channels": self.latent_channels}
        if self.own_scale:
            known |= {"scaling_factor": 1.0, "latents_mean": None, "latents_std": None}
        shift, scale = latent_convention(known)
        # not persistent: they follow from the configuration beside the weights
        self.register_buffer("shift", shift.view(1, -1, 1, 1), persistent=False)  # (1, d, 1, 1)
        self.register_buffer("scale", scale.view(1, -1, 1, 1), persistent=False)  # (1, d, 1, 1)

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return self._factor

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the posterior of the scaled latents; see `Tokenizer.encode`."""
        name = type(self.network).__name__
        if mask is not None:
            raise StudyError(f"{name}: images cannot be masked, it has no image tokens")
        if self.image_size not in (None, images.shape[-1]):
            raise StudyError(_other_size(name, self.image_size, images.shape[-1]))
        self.grid(images)
        shown = images.expand(-1, COLOUR, -1, -1) if self._repeats else images
        latent, logvar = _moments(
            self.network.encode((shown + 1) / 2 if self.own_scale else shown), name
        )
        mean = (latent - self.shift) * self.scale  # (B, d, h, w)
        if logvar is None:
            return Posterior(mean, torch.full_like(mean, LOGVAR_RANGE[0]))
        logvar = logvar + 2 * self.scale.abs().log()
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images that scaled latents stand for; see `Tokenizer.decode`."""
        images: Tensor = self.network.decode(latents / self.scale + self.shift).sample
        images = images * 2 - 1 if self.own_scale else images
        return images.mean(dim=1, keepdim=True) if self._repeats else images


def _moments(encoded: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """Return latents (B, d, h, w) of what a network's `encode` returns, and their log-variances.

    Raises:
        StudyError: it returns no feature map.
    """
    latent, logvar = moments_of(encoded)
    if not isinstance(latent, Tensor) or latent.ndim != 4:
        raise StudyError(
            f"{name}: its encode returns no latents (B, C, H, W), as metrics need them"
        )
    return latent, logvar


@torch.no_grad()
def _encoded_probe(
    network: nn.Module, image_channels: int, name: str
) -> tuple[Tensor, Tensor | None]:
    """Return latents and log-variances of a grey image.

    Raises:
        StudyError: the network does not encode images.
    """
    image = torch.zeros(1, image_channels, PROBED, PROBED)
    try:
        return _moments(network.eval().encode(image), name)  # type: ignore[operator]
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise StudyError(
            f"{name}: does not encode images (B, C, H, W) ({error!s:.200}); it may be one of "
            "videos or of sound"
        ) from error


def fixed_size(config: Mapping[str, Any]) -> int | None:
    """Return the side of the only images that a network takes; None: any whole grid."""
    if config["_class_name"] != RAE:
        return None
    grid = config.get("encoder_input_size", 224) // config.get("encoder_patch_size", 14)
    return int(grid * config.get("patch_size", 16))


def _other_size(what: str, size: int | None, given: int) -> str:
    return f"{what}: takes images of {size} pixels, these have {given}; score with --size {size}"


def _stated_shape(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return factor and channels of the latents, where the configuration states them."""
    name = config["_class_name"]
    if name == RAE:
        return int(config.get("patch_size", 16)), int(config.get("encoder_hidden_size", 768))
    if name not in CLASSES or not {CLASSES[name][1], "latent_channels"} <= config.keys():
        return None  # then diffusers' own defaults hold
    return 2 ** (len(config[CLASSES[name][1]]) - 1), int(config["latent_channels"])


def latent_convention(config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return shift and scale of z = (latent - shift) · scale, each (d,) float32.

    Args:
        config: of diffusers: `scaling_factor`, and where it has them `shift_factor` or
            `latents_mean` and `latents_std`, one value per channel.

    Raises:
        StudyError: if a scale is zero or not finite.
    """
    channels = config["latent_channels"]
    std = torch.as_tensor(config.get("latents_std") or 1.0, dtype=torch.float32)
    mean = config.get("latents_mean") or config.get("shift_factor") or 0.0
    shift = torch.as_tensor(mean, dtype=torch.float32).expand(channels)
    factor = config.get("scaling_factor")
    scale = ((1.0 if factor is None else factor) / std).expand(channels)
    if not bool(torch.isfinite(scale).all() and (scale != 0).all()):
        raise StudyError(
            f"{config['_class_name']}: its latents are scaled by {scale.tolist()}; correct "
            f"scaling_factor and latents_std in {CONFIG}"
        )
    return shift.clone(), scale.clone()


def latent_shape(path: str, size: int) -> tuple[int, int]:
    """Return factor and channels of the latents of a published autoencoder, from its config.json.

    Args:
        path: its folder. size: side of the images in pixels.

    Raises:
        ArtifactError: there is no config.json, or it cannot be read.
        StudyError: it is no autoencoder of images, or none of such images; or diffusers is missing.
    """
    config = read_config(Path(path) / CONFIG, path)
    fixed = fixed_size(config)
    if fixed not in (None, size):
        raise StudyError(_other_size(path, fixed, size))
    stated = _stated_shape(config)
    if stated is not None:
        return stated
    network = _class(config["_class_name"]).from_config(config)
    tokenizer = ExternalAutoencoder(network, {**network.config, **config})
    return tokenizer.factor, tokenizer.latent_channels


def import_autoencoder(spec: ExternalTokenizer, folder: Path) -> None:
    """Copy a published autoencoder into an artifact, as model.safetensors and config.json.

    Args:
        spec: the study's entry.
        folder: where the two files are written; weights are widened to float32.

    Raises:
        ArtifactError: if the autoencoder's folder is not whole, or weights are not finite.
        StudyError: if it is not what the entry says, or diffusers is missing.
    """
    source = Path(spec.path)
    config = read_config(source / CONFIG, spec.path)
    network = _published(source, config, spec.path)
    resolved = {
        key: value
        for key, value in network.config.items()
        if not key.startswith("_") or key in KEPT_PRIVATE  # the others name places and versions
    }
    tokenizer = ExternalAutoencoder(network, resolved)
    _compare(spec, tokenizer)
    require_finite(dict(network.named_parameters()), f"autoencoder `{spec.path}`")
    save_file(
        {name: tensor.float().contiguous() for name, tensor in network.state_dict().items()},
        folder / WEIGHTS,
    )
    (folder / CONFIG).write_text(json.dumps(resolved, indent=2, sort_keys=True) + "\n")
    logger.info(
        "%s: %s, latents are shifted by %s and scaled by %s",
        spec.path,
        config["_class_name"],
        *(sorted(set(values.flatten().tolist())) for values in (-tokenizer.shift, tokenizer.scale)),
    )


def load_autoencoder(folder: Path, image_channels: int) -> ExternalAutoencoder:
    """Return the autoencoder that `import_autoencoder` wrote; nothing else is read.

    Raises:
        StudyError: if it cannot take images of so many channels, or diffusers is missing.
    """
    config = read_config(folder / CONFIG, str(folder))
    network = _class(config["_class_name"]).from_config(config)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return ExternalAutoencoder(network, config, image_channels)


def _class(name: str) -> Any:
    """Return a class of diffusers that encodes and decodes.

    Raises:
        StudyError: there is none of this name, or it has no encode and decode.
    """
    if name in CLASSES:
        module = f"diffusers.models.autoencoders.{CLASSES[name][0]}"
        return getattr(import_extra(module, f"tokenizer of class {name}"), name)
    package = import_extra("diffusers", f"tokenizer of class {name}")
    found = getattr(package, name, None)
    if found is None:
        raise StudyError(f"diffusers {package.__version__} has no class {name}; a newer one may")
    if not (hasattr(found, "encode") and hasattr(found, "decode")):
        raise StudyError(
            f"{name} of diffusers has no encode and decode; an autoencoder is needed, such as "
            f"{', '.join([*CLASSES, RAE])}"
        )
    return found


def read_config(path: Path, what: str) -> dict[str, Any]:
    """Return the configuration that diffusers saved, once it names a class.

    Args:
        path: of the file. what: folder or repository, for messages.

    Raises:
        ArtifactError: there is no such file, or it is not JSON.
        StudyError: it is of something else than diffusers.
    """
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(
            f"autoencoder `{what}`: there is no {path}; the tokenizer's `path` names a folder with "
            "config.json and *.safetensors, as diffusers saves it"
        ) from None
    except ValueError as error:
        raise ArtifactError(f"autoencoder `{what}`: {path} is not JSON ({error})") from None
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise StudyError(
            f"autoencoder `{what}`: {path} names no class of diffusers (`_class_name`), such as "
            f"{', '.join([*CLASSES, RAE])}"
        )
    return config


def _published(source: Path, config: Mapping[str, Any], what: str) -> Any:
    """Return the network of a folder with its weights, in float32."""
    files = [path.name for path in source.glob("*.safetensors")]
    if not files:
        raise ArtifactError(
            f"autoencoder `{what}`: no *.safetensors in {source}; download the weights in that "
            "format"
        )
    try:
        # diffusers renames the layers of files that older releases saved
        network, report = _class(config["_class_name"]).from_pretrained(
            source,
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            low_cpu_mem_usage=False,
            variant="fp16" if all(".fp16" in name for name in files) else None,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"autoencoder `{what}`: {source} cannot be read ({error!s:.300}); download it again"
        ) from error
    wrong = {kind: names for kind, names in report.items() if names}
    if wrong:
        listing = "; ".join(f"{kind}: {names!s:.200}" for kind, names in wrong.items())
        raise ArtifactError(
            f"autoencoder `{what}`: the weights in {source} do not fit its config.json ({listing})"
        )
    return network.eval().requires_grad_(False)


def _compare(spec: ExternalTokenizer, tokenizer: ExternalAutoencoder) -> None:
    """Refuse an autoencoder that is not what the entry says."""
    stated = {"factor": spec.factor, "channels": spec.channels}
    found = {"factor": tokenizer.factor, "channels": tokenizer.latent_channels}
    if stated != found:
        raise StudyError(
            f"autoencoder `{spec.path}`: the study's entry says {_words(stated)}, the folder "
            f"holds one of {_words(found)}; correct the entry or its `path`"
        )


def _words(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
