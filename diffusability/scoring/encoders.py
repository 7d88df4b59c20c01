"""From what `--encoder` names to the encoder's entry and the shape of its feature map."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusability.encoders.python_object import build_with_weights, called, require_trained
from diffusability.encoders.vision import TimmModel
from diffusability.errors import StudyError
from diffusability.study.core.problems import Problems, nearest
from diffusability.study.entries.encoder import (
    ENCODERS,
    EncoderEntry,
    PythonEncoder,
    TimmEncoder,
    TrainedEncoder,
    VisionEncoder,
)
from diffusability.study.entries.vision_models import CELL, FACTS
from diffusability.study.sources.python_object import OBJECT

CONFIG = "config.json"  # beside the weights that timm saves
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
OF_THE_HEAD = ("num_classes", "global_pool", "img_size")  # no patch feature needs them


def encoder_entry(
    name: str, weights: str | None, mapping: Mapping[str, Any] | None, channels: int, size: int
) -> tuple[dict[str, Any], int, int]:
    """Return the entry of an encoder, with factor and channels of its feature map.

    Args:
        name: a vision model, a folder that timm saved, or a class `package:Class`.
        weights: file for a vision model or a class; None: where they are looked for by default.
        mapping: the entry, where `name` is one; else None.
        channels: of the images. size: their side in pixels.

    Raises:
        StudyError: there is no such encoder, or its feature map cannot be scored.
    """
    path = None if weights is None else str(Path(weights).absolute())
    given = {} if path is None else {"weights": path}
    if mapping is not None:
        entry = dict(mapping)
    elif name in FACTS:
        entry = {"kind": "vision", "model": name, **given}
    elif Path(name).is_dir():
        entry = _saved_by_timm(Path(name))
    elif ":" in name and re.match(OBJECT, name):
        entry = {"kind": "python", "object": name, **given}
        factor, features = _probe(entry, channels, size)
        entry |= {"factor": factor, "features": features}
    else:
        raise StudyError(
            f"--encoder {name}: is no vision model ({nearest(name, FACTS)}), no folder that timm "
            "saved, no class `package:Class` and no entry such as 'kind: timm, model: ...'"
        )
    problems = Problems()
    spec = problems.validate_tagged("--encoder", entry, "kind", ENCODERS)
    problems.raise_any("score")
    assert isinstance(spec, EncoderEntry)
    return entry, *_feature_map(spec)


def _feature_map(spec: EncoderEntry) -> tuple[int, int]:
    """Return image pixels per cell along one side, and channels."""
    match spec:
        case VisionEncoder():
            return CELL, FACTS[spec.model].channels
        case TimmEncoder():
            return CELL, TimmModel(spec).facts.channels
        case TrainedEncoder() | PythonEncoder():
            return spec.factor, spec.features
    raise StudyError(
        f"--encoder: an encoder of kind {spec.kind} has no feature map that could be scored"
    )


def is_saved_by_timm(folder: Path) -> bool:
    """Return whether a folder holds a network of timm, and not an autoencoder of diffusers."""
    return _timm_config(folder) is not None


def _timm_config(folder: Path) -> dict[str, Any] | None:
    """Return what timm wrote beside its weights; None if there is no such file."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and "architecture" in config else None


def _saved_by_timm(folder: Path) -> dict[str, Any]:
    """Return the entry of a network that `timm.models.save_for_hf` saved."""
    config = _timm_config(folder)
    if config is None:
        raise StudyError(
            f"--encoder {folder}: there is no {CONFIG} with the `architecture` of a network of "
            "timm, as timm.models.save_for_hf writes it"
        )
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise StudyError(f"--encoder {folder}: there is no {' or '.join(WEIGHT_FILES)}")
    arguments = {k: v for k, v in config.get("model_args", {}).items() if k not in OF_THE_HEAD}
    if arguments.get("in_chans") == 3:  # what timm writes for all; another number is refused
        del arguments["in_chans"]
    entry = {"kind": "timm", "model": config["architecture"], "weights": str(weights.absolute())}
    entry |= {"options": arguments} if arguments else {}
    colours = config.get("pretrained_cfg", {})
    return entry | {key: colours[key] for key in ("mean", "std") if key in colours}


def _probe(entry: Mapping[str, Any], channels: int, size: int) -> tuple[int, int]:
    """Return factor and channels of the feature map of a black image."""
    spec = PythonEncoder.model_validate({**entry, "features": 4})
    network = build_with_weights(spec, spec.weights_content).eval()
    with torch.no_grad():
        image = torch.full((1, channels, size, size), -1.0)
        found = called(spec.object, "forward", network, image)
    grid = found[0] if isinstance(found, tuple) else found
    if not isinstance(grid, Tensor) or grid.ndim != 4 or size % grid.shape[-1]:
        raise StudyError(
            f"`{spec.object}`: forward gives no feature map (B, D, h, w) of a whole grid"
        )
    require_trained(spec, network)
    return size // grid.shape[-1], grid.shape[1]
