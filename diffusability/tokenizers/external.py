"""Published autoencoders: AutoencoderKL, AutoencoderDC and AutoencoderTiny of diffusers.

The folder that diffusers saves states how its latents are scaled for diffusion; that convention is
applied, z = (latent - shift) · scale / std, and undone before decoding. The latent metrics and the
diffusion models of a study normalise every channel anyway, so it changes none of them.
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
from diffusability.study.content import content_digest, is_digest
from diffusability.study.tokenizer import TOKENIZER_FILES, ExternalTokenizer
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.load import WEIGHTS, TokenizerSource
from diffusability.tokenizers.posterior import LOGVAR_RANGE, Posterior

logger = logging.getLogger(__name__)

# class of diffusers to its module and the key of the widths, one per resolution
CLASSES = {
    "AutoencoderKL": ("autoencoder_kl", "block_out_channels"),
    "AutoencoderDC": ("autoencoder_dc", "encoder_block_out_channels"),
    "AutoencoderTiny": ("autoencoder_tiny", "encoder_block_out_channels"),
}
CONFIG = "config.json"
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


class ExternalAutoencoder(Tokenizer):
    """A published autoencoder behind the interface of the study's own tokenizers.

    AutoencoderKL predicts a posterior. The others are deterministic: their posterior has the
    latent as mean and the smallest log-variance that a posterior may have (-30), a standard
    deviation of 3e-7, so that a sample is the mean in single precision.
    """

    network: Any  # of a package that has no types
    shift: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        """Wrap a network of diffusers.

        Args:
            network: of one of `CLASSES`.
            config: its configuration, with `_class_name`.

        Raises:
            StudyError: if images go in and come out with different numbers of channels, or the
                scale of the latents is no positive number.
        """
        super().__init__()
        self.network = network
        self.image_channels = config["in_channels"]
        self.latent_channels = config["latent_channels"]
        returned = config.get("out_channels", self.image_channels)
        if returned != self.image_channels:
            raise StudyError(
                f"{config['_class_name']}: {self.image_channels} image channels go in and "
                f"{returned} come out; only autoencoders of equal channels can be tokenizers"
            )
        self.deterministic = config["_class_name"] != "AutoencoderKL"
        self._factor = 2 ** (len(config[CLASSES[config["_class_name"]][1]]) - 1)
        shift, scale = latent_convention(config)
        # not persistent: they follow from the configuration beside the weights
        self.register_buffer("shift", shift.view(1, -1, 1, 1), persistent=False)  # (1, d, 1, 1)
        self.register_buffer("scale", scale.view(1, -1, 1, 1), persistent=False)  # (1, d, 1, 1)

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return self._factor

    @property
    def encoder_last_weight(self) -> Tensor:
        """Weight of the layer that emits the moments."""
        encoder = self.network.encoder
        last = getattr(self.network, "quant_conv", None) or getattr(encoder, "conv_out", None)
        weight: Tensor = (last or encoder.layers[-1]).weight
        return weight

    @property
    def decoder_last_weight(self) -> Tensor:
        """Weight of the layer that emits the pixels."""
        decoder = self.network.decoder
        weight: Tensor = (getattr(decoder, "conv_out", None) or decoder.layers[-1]).weight
        return weight

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the posterior of the scaled latents; see `Tokenizer.encode`."""
        if mask is not None:
            raise StudyError(
                f"{type(self.network).__name__}: images cannot be masked, it has no image tokens"
            )
        self.grid(images)
        encoded = self.network.encode(images)
        if self.deterministic:
            latent = encoded.latents if hasattr(encoded, "latents") else encoded.latent
            mean = (latent - self.shift) * self.scale  # (B, d, h, w)
            return Posterior(mean, torch.full_like(mean, LOGVAR_RANGE[0]))
        posterior = encoded.latent_dist
        mean = (posterior.mean - self.shift) * self.scale  # (B, d, h, w)
        logvar = posterior.logvar + 2 * self.scale.abs().log()
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images that scaled latents stand for; see `Tokenizer.decode`."""
        images: Tensor = self.network.decode(latents / self.scale + self.shift).sample
        return images


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
    scale = (config.get("scaling_factor", 1.0) / std).expand(channels)
    if not bool(torch.isfinite(scale).all() and (scale != 0).all()):
        raise StudyError(
            f"{config['_class_name']}: its latents are scaled by {scale.tolist()}; correct "
            f"scaling_factor and latents_std in {CONFIG}"
        )
    return shift.clone(), scale.clone()


def latent_shape(path: str) -> tuple[int, int]:
    """Return factor and channels of the latents of a published autoencoder, from its config.json.

    Raises:
        ArtifactError: there is no config.json, or it cannot be read.
        StudyError: it is of another class than is known here.
    """
    config = _read_config(Path(path) / CONFIG, path)
    widths = config[CLASSES[config["_class_name"]][1]]
    return 2 ** (len(widths) - 1), int(config["latent_channels"])


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
    config = _read_config(source / CONFIG, spec.path)
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
        StudyError: if it is for images of another number of channels, or diffusers is missing.
    """
    config = _read_config(folder / CONFIG, str(folder))
    network = _class(config["_class_name"]).from_config(config)
    network.load_state_dict(load_file(folder / WEIGHTS))
    tokenizer = ExternalAutoencoder(network, config)
    if tokenizer.image_channels != image_channels:
        raise StudyError(
            f"{folder}: the autoencoder takes images of {tokenizer.image_channels} channels and "
            f"the dataset has {image_channels}; choose another dataset or autoencoder"
        )
    return tokenizer


def _class(name: str) -> Any:
    module, _ = CLASSES[name]
    imported = import_extra(f"diffusers.models.autoencoders.{module}", f"tokenizer of class {name}")
    return getattr(imported, name)


def _read_config(path: Path, what: str) -> dict[str, Any]:
    """Return the configuration, once it names a class that is known here."""
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(
            f"autoencoder `{what}`: there is no {path}; the tokenizer's `path` names a folder with "
            "config.json and *.safetensors, as diffusers saves it"
        ) from None
    except ValueError as error:
        raise ArtifactError(f"autoencoder `{what}`: {path} is not JSON ({error})") from None
    if not isinstance(config, dict) or config.get("_class_name") not in CLASSES:
        found = config.get("_class_name") if isinstance(config, dict) else None
        raise StudyError(
            f"autoencoder `{what}`: {path} is of class {found}; known are {', '.join(CLASSES)}"
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
