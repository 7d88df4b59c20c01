"""From what a person names on the command line to the study that measures it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusability.data.array_files import SUFFIXES, read_array
from diffusability.data.unseen import read_labels, read_masks
from diffusability.errors import DataError, StudyError
from diffusability.scoring.encoders import encoder_entry, is_saved_by_timm
from diffusability.scoring.entries import (
    checked_images,
    images_entry,
    is_entry,
    read_entry,
    refuse_images,
)
from diffusability.scoring.hub import OF_PIPELINE, autoencoder_folder, is_hub_name
from diffusability.study.core.names import INCEPTION, MAX_NAME, NAME
from diffusability.study.core.problems import Problems
from diffusability.study.entries.dataset import Dataset, DecodedDataset, UnseenDataset
from diffusability.study.entries.tokenizer import LatentsTokenizer, PythonTokenizer
from diffusability.study.entries.vision_models import FACTS
from diffusability.study.sources.image_channels import CONFIG
from diffusability.study.sources.python_object import OBJECT
from diffusability.study.study import Study
from diffusability.tokenizers.external import latent_shape
from diffusability.tokenizers.python_object import probe_shape
from diffusability.tokenizers.stored import NAMES, check_latents, read_latents

OF_LATENTS = ("velocity", "semantics", "spatial", "smoothness", "uniformity", "fisher")
LABELS = ("labels", "label", "y")  # usual names of their array in a file
MOST_CLASSES = 10**6  # labels above it are ids, and no numbers of classes
# options that differ from those of a study: seconds in the place of minutes, any size of class;
# uniformity on as many points as of the known spaces of `fashion`, which it is compared with
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "velocity": {"unconditional_fallback": True, "quick": True},
    "uniformity": {"points": 1000, "repeats": 5, "iterations": 400},
}


@dataclass(frozen=True)
class Request:
    """What is scored, and on which images.

    Attributes:
        items: kind (`vae`, `tokenizer`, `encoder`, `latents`, or `` where it is to be found out)
            and name.
        images: folder, archive, or a dataset entry as YAML; None: there are only latents.
        size: side of the images in pixels; None: the default of their kind, 256 of files.
        classes: their number; None: counted.
        labels: file of labels of latents. masks: file of their foreground masks.
        weights: file for the tokenizers of the user's own package.
        extractor: encoder entry as YAML, whose features Fréchet distances compare.
        metrics: groups that are measured; none: all that can be.
        name: of the study.
    """

    items: Sequence[tuple[str, str]]
    images: str | None = None
    size: int | None = None
    classes: int | None = None
    labels: str | None = None
    masks: str | None = None
    weights: str | None = None
    extractor: str | None = None
    metrics: Sequence[str] = ()
    name: str = "score"


def requested_study(request: Request) -> dict[str, Any]:
    """Return the study as the mapping of a file.

    Raises:
        DiffusabilityError: what is named does not exist, or does not fit.
    """
    if not request.items:
        raise StudyError(
            "score: nothing is named; give --vae, --tokenizer, --encoder or --latents, or their "
            "names alone"
        )
    kinds = [(_kind(kind, name), name) for kind, name in request.items]
    request = replace(request, items=kinds)
    _check_options(request)
    dataset = _dataset(request)
    shape = checked_images(dataset)
    if shape.has_images:
        refuse_images(shape, dataset)
        dataset.setdefault("size", shape.size)  # written down, as the file can be edited
    tokenizers: dict[str, Any] = {}
    encoders: dict[str, Any] = {}
    extractor = None
    if request.extractor is not None:
        entry = read_entry("--extractor", request.extractor)
        # only Inception's distances are FID
        extractor = INCEPTION if entry.get("kind") == "inception" else "extractor"
        encoders[extractor] = entry
    for kind, given in kinds:
        if kind != "latents" and not shape.has_images:
            raise _unseen_images(given)
        if kind == "encoder":
            entry, encoder = _features(given, request, shape)
            name = _name(given, tokenizers | encoders, "-")  # of an encoder, which has no dots
            encoders[name] = encoder
            tokenizers[name] = {"source": "encoder", "encoder": name, **entry}
            continue
        entry = _tokenizer(kind, given, request.weights, shape)
        tokenizers[_name(entry.get("object", given), tokenizers)] = entry
    data: dict[str, Any] = {"name": request.name, "datasets": {"images": dataset}}
    data |= {"encoders": encoders} if encoders else {}
    data |= {"tokenizers": tokenizers, "metrics": _metrics(request, shape.has_images, extractor)}
    data["select"] = {"dataset": "images"}
    return data


def check_stored(study: Study) -> None:
    """Look at latents on disk, their labels and masks, before any job starts.

    Raises:
        DataError: a file cannot be read, is not of these images, or holds NaN.
    """
    data = study.dataset
    if isinstance(data, UnseenDataset):
        read_labels(data)
        if data.masks is not None:
            read_masks(data)
    for name in study.selected_tokenizers:
        entry = study.tokenizers[name]
        if isinstance(entry, LatentsTokenizer):
            latents = read_latents(entry)
            images = data.counts().of("all")
            if _counts_exactly(data) and len(latents) != images:
                raise DataError(
                    f"{entry.path}: {len(latents)} latents, where there are {images} images"
                )
            check_latents(latents, entry.path)


def _counts_exactly(data: Dataset) -> bool:
    """Whether the number of images is known before they are read."""
    if isinstance(data, DecodedDataset):
        return data.counted and data.damaged != "skip"
    return True


def _check_options(request: Request) -> None:
    """Refuse options that apply to nothing that is scored.

    Raises:
        StudyError: naming the option and what to do.
    """
    weights = request.weights
    if weights is not None and not any(_takes_weights(*item) for item in request.items):
        raise StudyError(
            f"--weights {weights}: nothing that is scored takes it: a folder holds its own, an "
            "entry names them (`weights: FILE`), and latents have none; leave the option out"
        )
    uses = {"extractor": ("reconstruction", "continuity"), "masks": ("spatial", "semantics")}
    for option, groups in uses.items():
        given = getattr(request, option)
        if given is not None and request.metrics and not set(groups) & set(request.metrics):
            raise StudyError(
                f"--{option} {given}: none of --metrics {' '.join(request.metrics)} uses it; leave "
                f"it out, or add {' or '.join(groups)}"
            )
    if request.images is not None:
        if request.labels is not None or request.masks is not None:
            raise StudyError("--labels and --masks are of latents; images have their own")
        return
    for option, value in (("--size", request.size), ("--extractor", request.extractor)):
        if value is not None:
            raise StudyError(
                f"{option} {value}: is for images, and none are named; name them with --images "
                "FOLDER, or leave the option out"
            )
    if request.classes is not None and request.labels is None:
        raise StudyError(
            f"--classes {request.classes}: latents without labels are of one class; name a file "
            "with --labels FILE, or leave the option out"
        )


def _takes_weights(kind: str, name: str) -> bool:
    """Return whether the file of `--weights` is used for one thing that is scored."""
    match kind:
        case "tokenizer":
            return not is_entry(name)
        case "encoder":
            return not is_entry(name) and (name in FACTS or not Path(name).is_dir())
    return False


def _dataset(request: Request) -> dict[str, Any]:
    if request.images is None:
        return _unseen(request)
    return images_entry(request.images, request.size, request.classes)


def _unseen(request: Request) -> dict[str, Any]:
    """Return the dataset of latents alone; the first file says how many images there are."""
    first = next((name for kind, name in request.items if kind == "latents"), None)
    if first is None:
        raise _unseen_images(request.items[0][1])
    entry: dict[str, Any] = {"kind": "latents", "images": _shape(first)[0]}
    if not entry["images"]:
        raise StudyError(f"{first}: there are no latents in this file")
    if request.labels is not None:
        labels = read_array(request.labels, LABELS)
        # labels that are no integers are refused later
        largest = int(labels.nan_to_num(0, 0, 0).max()) if labels.numel() else 0
        if largest >= MOST_CLASSES:
            raise StudyError(
                f"{request.labels}: label {largest}: number the classes from 0, for example with "
                "numpy.unique(labels, return_inverse=True)[1]"
            )
        entry |= {
            "labels": str(Path(request.labels).absolute()),
            "num_classes": max(1, largest + 1) if request.classes is None else request.classes,
        }
    if request.masks is not None:
        masks = read_array(request.masks, ("masks", "mask", "foreground"))
        entry |= {
            "masks": str(Path(request.masks).absolute()),
            "size": int(masks.shape[-1]) if masks.ndim else 1,
        }
    return entry


def _unseen_images(name: str) -> StudyError:
    """Return the error of a network without images that it could encode."""
    return StudyError(f"{name}: name the images that it encodes: --images FOLDER")


def _kind(kind: str, name: str) -> str:
    """Return what a name stands for, where the command did not say it."""
    if kind:
        return kind
    path = Path(name)
    if path.suffix in SUFFIXES and path.exists():
        return "latents"
    if name in FACTS or (path.is_dir() and is_saved_by_timm(path)):
        return "encoder"
    if ":" in name and re.match(OBJECT, name):
        return "tokenizer"
    if path.is_dir() or is_hub_name(name):
        return "vae"
    raise StudyError(
        f"{name}: is no folder of an autoencoder, no file of latents ({', '.join(SUFFIXES)}) and "
        "no class `package:Class`"
    )


def _tokenizer(kind: str, name: str, weights: str | None, shape: Dataset) -> dict[str, Any]:
    """Return the entry of one thing that is scored."""
    match kind:
        case "latents":
            return _stored(name)
        case "vae":
            folder = _autoencoder_folder(name)
            factor, latent_channels = latent_shape(str(folder), shape.size)
            path = str(folder.absolute())
            return {
                "source": "diffusers",
                "path": path,
                "factor": factor,
                "channels": latent_channels,
            }
        case "tokenizer":
            entry = _own_class(name, weights)
            factor, latent_channels = probe_shape(entry, shape.image_channels, shape.size)
            return entry | {"factor": factor, "channels": latent_channels}
        case other:
            raise StudyError(f"{name}: unknown kind `{other}` (vae, tokenizer, encoder, latents)")


def _autoencoder_folder(name: str) -> Path:
    """Return the folder of an autoencoder, which may be a pipeline's or on the hub."""
    whole = Path(name)
    if whole.is_dir():
        part = whole / OF_PIPELINE
        return part if (part / CONFIG).is_file() else whole
    if is_hub_name(name):
        return autoencoder_folder(name)
    raise StudyError(f"{name}: there is no such folder")


def _own_class(name: str, weights: str | None) -> dict[str, Any]:
    """Return the entry of a class of the user's own package, without the shape of its latents."""
    if is_entry(name):
        entry = {"source": "python", **read_entry("--tokenizer", name)}
    elif re.match(OBJECT, name):
        entry = {"source": "python", "object": name}
        entry |= {} if weights is None else {"weights": str(Path(weights).absolute())}
    else:
        raise StudyError(
            f"--tokenizer {name}: is no class `package:Class` and no entry such as 'object: "
            "package:Class, options: {width: 64}'; the class MyVAE of ./my_vae.py is my_vae:MyVAE"
        )
    problems = Problems()
    problems.validate("--tokenizer", {**entry, "factor": 1, "channels": 1}, PythonTokenizer)
    problems.raise_any("score")
    return entry


def _features(name: str, request: Request, shape: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return factor and channels of an encoder's feature map, and the encoder's entry."""
    mapping = read_entry("--encoder", name) if is_entry(name) else None
    encoder, factor, channels = encoder_entry(
        name, request.weights, mapping, shape.image_channels, shape.size
    )
    return {"factor": factor, "channels": channels}, encoder


def _stored(name: str) -> dict[str, Any]:
    shape = _shape(name)
    entry: dict[str, Any] = {"source": "latents", "path": str(Path(name).absolute())}
    if len(shape) == 3:
        return entry | {"channels": shape[2], "layout": "tokens"}
    return entry | {"channels": shape[1]}


def _shape(name: str) -> tuple[int, ...]:
    """Return the shape of the latents in a file.

    Raises:
        StudyError: they are neither on a grid nor tokens.
    """
    shape = tuple(read_array(name, NAMES).shape)
    if len(shape) not in (3, 4):
        raise StudyError(
            f"{name}: latents of shape {shape}, which is neither (N, C, H, W) nor (N, L, D)"
        )
    return shape


def _metrics(request: Request, images: bool, extractor: str | None) -> dict[str, Any]:
    split = {"split": "all"}
    metrics: dict[str, Any] = {name: {**split, **DEFAULTS.get(name, {})} for name in OF_LATENTS}
    if images:
        metrics |= {"equivariance": dict(split), "reconstruction": dict(split)}
        if extractor is not None:
            metrics["reconstruction"]["extractor"] = extractor
            metrics["continuity"] = {"extractor": extractor}
    chosen = request.metrics or tuple(metrics)
    for name in chosen:
        if name not in metrics:
            raise StudyError(
                f"--metrics {name}: not among those of this score: {', '.join(metrics)}; name what "
                "is scored before --metrics"
            )
    return {name: metrics[name] for name in metrics if name in chosen}


def _name(given: str, taken: Mapping[str, Any], dot: str = ".") -> str:
    """Return a name for tables, from a path or a class; dots and plus signs may be replaced."""
    last = given.rpartition(":")[2] if ":" in given else Path(given).absolute().name
    last = "encoder" if is_entry(given) else last
    for suffix in SUFFIXES:
        last = last.removesuffix(suffix)
    last = last.lower() if dot == "." else re.sub(r"[.+]", dot, last.lower())
    name = re.sub(r"[^a-z0-9.+-]+", "-", last)[: MAX_NAME - 4].strip("-.+") or "latents"
    assert re.fullmatch(NAME, name)
    free = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))]
    return next(each for each in free if each not in taken)
