"""Networks of the Hugging Face hub that a score names: read from its cache, else downloaded to it.

Only `score` downloads. The jobs of a workflow read what is there, since nodes of a cluster may have
no network.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from diffusability.encoders.packages import import_extra
from diffusability.errors import StudyError
from diffusability.study.entries.vision_models import (
    FACTS,
    WEIGHT_FILE,
    cached_repository,
    cached_weights,
)
from diffusability.study.sources.image_channels import CONFIG
from diffusability.tokenizers.external import read_config

HUB_NAME = r"[A-Za-z0-9][\w.-]*/[\w.-]+"  # of a repository: organisation and name
OF_PIPELINE = "vae/"  # where a whole pipeline has its autoencoder
# how diffusers names its weights, in one file or several with an index
WEIGHTS = re.compile(r"diffusion_pytorch_model(?P<variant>\.fp16)?[-.\w]*\.(safetensors|json)")
SECONDS = 10  # until a hub that does not answer counts as none
Answer = TypeVar("Answer")


def is_hub_name(name: str) -> bool:
    """Return whether a name has the form of a hub's repository, and is no folder here."""
    return re.fullmatch(HUB_NAME, name) is not None and not Path(name).is_dir()


def autoencoder_folder(name: str) -> Path:
    """Return the folder of an autoencoder of the hub; it is downloaded where it is not here.

    Raises:
        StudyError: the hub does not give it, or it is no autoencoder of diffusers.
    """
    here = cached_repository(name)
    for folder in (here / OF_PIPELINE, here):
        if (folder / CONFIG).is_file() and any(folder.glob("*.safetensors")):
            return folder
    sizes = _listed(name)
    part = OF_PIPELINE if OF_PIPELINE + CONFIG in sizes else ""
    if part + CONFIG not in sizes:
        raise StudyError(
            f"{name}: the repository of the hub has no {CONFIG}, which diffusers saves; name the "
            "repository of an autoencoder, or of a pipeline"
        )
    _download(name, {part + CONFIG: sizes[part + CONFIG]})
    folder = cached_repository(name) / part
    read_config(folder / CONFIG, name)  # before gigabytes of another network are downloaded
    weights = _weights([file.removeprefix(part) for file in sizes if file.startswith(part)])
    if not weights:
        raise StudyError(f"{name}: the repository of the hub has no weights as safetensors")
    _download(name, {part + file: sizes[part + file] for file in weights})
    return folder


def download_vision_models(entries: Iterable[Mapping[str, Any]]) -> None:
    """Download the weights of vision models that encoder entries name without a file of weights.

    Raises:
        StudyError: the hub does not give them.
    """
    for entry in entries:
        facts = FACTS.get(entry.get("model", ""))
        if facts is None or entry.get("weights") or cached_weights(facts.hub).is_file():
            continue
        _download(facts.hub, {WEIGHT_FILE: _listed(facts.hub).get(WEIGHT_FILE, 0)})


def _weights(files: Sequence[str]) -> list[str]:
    """Return the weight files of diffusers; those of half precision only if there are no others."""
    found = [(file, match["variant"]) for file in files if (match := WEIGHTS.fullmatch(file))]
    whole = [file for file, variant in found if variant is None]
    return whole or [file for file, _ in found]


def _listed(name: str) -> dict[str, int]:
    """Return the files of a repository with their sizes in bytes."""
    hub = import_extra("huggingface_hub", f"{name} of the Hugging Face hub")
    about = _asked(
        name, partial(hub.HfApi().model_info, name, timeout=SECONDS, files_metadata=True)
    )
    return {each.rfilename: each.size or 0 for each in about.siblings}


def _download(name: str, sizes: dict[str, int]) -> None:
    """Download files of a repository into the hub's cache, with its own progress bars."""
    hub = import_extra("huggingface_hub", f"{name} of the Hugging Face hub")
    for file, size in sizes.items():
        print(f"{name}: downloading {file} ({size / 1e6:,.0f} MB)", file=sys.stderr)
        _asked(name, partial(hub.hf_hub_download, name, file))


def _asked(name: str, ask: Callable[[], Answer]) -> Answer:
    """Return the hub's answer.

    Raises:
        StudyError: there is no network, no such repository, or no right to read it.
    """
    try:
        return ask()
    except Exception as error:  # releases of its client raise errors without a common base
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StudyError(
            f"{name}: there is no such folder or file, and the Hugging Face hub did not give it "
            f"({reason:.200}). Check the name; where there is no network, download it elsewhere "
            f"with `hf download {name}` and copy the folder"
        ) from error
