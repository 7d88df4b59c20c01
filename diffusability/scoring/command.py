"""The command `diffusability score`."""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from diffusability.data.array_files import held_names
from diffusability.errors import StudyError
from diffusability.execution.this_machine import available_cores
from diffusability.report.methods import grey_repeated
from diffusability.report.page import write_page
from diffusability.scoring.against import against_text, places_on_page, read_known
from diffusability.scoring.entries import ARCHIVES, errors_in_options
from diffusability.scoring.expected import expected, spaces_of
from diffusability.scoring.hub import download_vision_models
from diffusability.scoring.plot import scores_svg
from diffusability.scoring.request import (
    LABELS,
    Request,
    check_stored,
    requested_study,
)
from diffusability.scoring.run import LOG, check_measurable, run_study, write_study
from diffusability.scoring.study_part import study_without_models
from diffusability.scoring.table import score_text
from diffusability.study.planning.plan import Plan
from diffusability.study.preflight.needs import check_needs
from diffusability.study.reading.resolve import resolve_study

FOLDER = "diffusability-score"
EXPECTED = "score-expected.csv"
PAGE = "score.html"
# options on what is scored that is in no study file; each has the name of a field of `Request`
OPTIONS = ("images", "size", "classes", "labels", "masks", "weights", "extractor")
NO_EXTRACTOR = {"continuity": "iFID needs a feature extractor: --extractor"}
WRITTEN = (PAGE, "score.csv", "score.json", EXPECTED, "score.yaml")


class _Item(argparse.Action):
    """Collects what is scored in the order in which it is named."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        kind = (option or "").lstrip("-")
        named = [values] if isinstance(values, str) else list(values)
        items = [*(getattr(namespace, "items", None) or ()), *((kind, name) for name in named)]
        namespace.items = items


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.set_defaults(items=[])
    parser.add_argument(
        "names",
        nargs="*",
        action=_Item,
        metavar="A",
        help="what is scored: folder of an autoencoder, file of latents, package:Class, or with "
        "--study names of tokenizers",
    )
    for option, meaning in (
        ("--vae", "autoencoder that diffusers saved: a folder, or a name on the Hugging Face hub"),
        ("--tokenizer", "class of your own, package:Class, or an entry of a study's tokenizers"),
        ("--encoder", "vision model (dinov2-b), folder that timm saved, package:Class, an entry"),
        ("--latents", "latents (N, C, H, W) or tokens (N, L, D) in npy, npz, safetensors or zarr"),
    ):
        parser.add_argument(option, action=_Item, metavar="A", help=meaning)
    add = parser.add_argument
    add("--study", action="append", help="study file, some of whose tokenizers are scored")
    add("--images", help="folder or archive of images, or a dataset entry such as 'kind: digits'")
    add("--size", type=int, help="side of the images in pixels (256)")
    add("--classes", type=int, help="number of classes (by default those of folders or labels)")
    add("--labels", help="file of (N,) labels of latents")
    add("--masks", help="file of (N, H, W) foreground masks of latents")
    add("--weights", help="weights of --tokenizer or --encoder")
    add("--extractor", help="encoder entry for Fréchet distances, such as 'kind: ..., ...'")
    add(
        "--metrics",
        nargs="+",
        default=[],
        metavar="GROUP",
        help="velocity, semantics, ... (all that can be measured)",
    )
    add(
        "--against",
        metavar="TABLE",
        help="latent spaces to compare with: folder of a finished study's tables, or fashion",
    )
    add("--results", help=f"folder for results, table and page ({FOLDER}; of --study: here)")
    add("--write", metavar="FILE", help="only write the study, to be edited and run")
    add("--cores", "-c", type=_cores, default=available_cores(), help="cores that are used (all)")


def _cores(text: str) -> int:
    """Return a number of cores.

    Raises:
        ArgumentTypeError: it is no whole number above 0.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least 1")
    return int(text)


def score_command(arguments: argparse.Namespace) -> int:
    """Score what the arguments name, and print the table.

    Raises:
        DiffusabilityError: what is named does not exist or does not fit.
    """
    if arguments.write:
        for option in ("against", "results"):
            if getattr(arguments, option) is not None:
                raise StudyError(f"--{option}: --write runs nothing; leave one of the two out")
    known = None if arguments.against is None else read_known(arguments.against)
    data = _study(arguments)
    in_its_words: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    if not arguments.study:
        in_its_words = partial(errors_in_options, data["datasets"]["images"])
    if not arguments.study:
        if arguments.classes is None:
            _say_classes(data["datasets"]["images"])
        if arguments.labels is None and arguments.images is None:
            _say_unused_labels(data["tokenizers"].values())
        if not arguments.write:  # elsewhere it may be run
            download_vision_models(data.get("encoders", {}).values())
    study = resolve_study(data, "score")
    with in_its_words():
        check_stored(study)
    if repeated := grey_repeated(study):
        print(repeated, file=sys.stderr)
    if arguments.write:
        write_study(data, Path(arguments.write))
        run = f"diffusability run -c{arguments.cores} --configfile {shlex.quote(arguments.write)}"
        print(f"{arguments.write}: run it with: {run}")
        return 0
    check_needs(study)  # both before the page of another score is removed
    check_measurable(study)
    folder = Path(arguments.results or ("." if arguments.study else FOLDER)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    for former in (page, folder / EXPECTED):
        former.unlink(missing_ok=True)
    chosen = arguments.study or arguments.metrics  # what is measured
    with in_its_words():
        finished = run_study(data, folder, arguments.cores, None if chosen else NO_EXTRACTOR)
    scores, places = finished.scores, None
    print(score_text(scores))
    if known is not None:
        plan = Plan(resolve_study(data, "score"))
        seen = plan.study.dataset.has_images  # latents do not say what images they are of
        images = plan.of_stage("dataset")[0].fingerprint if seen else ""
        found, reason = expected(scores, spaces_of(plan, folder), arguments.against)
        if found:
            pd.DataFrame([asdict(each) for each in found]).to_csv(folder / EXPECTED, index=False)
        said = [each.sentence for each in found] or [reason]
        print(f"\n{against_text(scores, known, said, images)}")
        numbers = [each.sentence for each in found if each.value is not None]
        picture = scores_svg(scores, known)
        places = places_on_page(scores, known, said, picture, images, numbers)
    if finished.plan is not None:
        with contextlib.chdir(folder):
            write_page(finished.plan, page, left_out=finished.left_out, places=places)
    else:
        print(f"{PAGE}: its tables could not be made; the log is {folder / LOG}", file=sys.stderr)
    written = [name for name in WRITTEN if (folder / name).exists()]
    print(f"\n{', '.join(written)} in {folder}")
    return 0


def _say_classes(images: Mapping[str, Any]) -> None:
    """Say what was taken as classes, which nobody may have meant."""
    kind, count = images["kind"], images.get("num_classes", 1)
    if kind == "folder" and count > 1:
        said = f"its {count} folders are taken as classes; if they are none, say so: --classes 1"
    elif kind in ARCHIVES.values():
        said = f"{count} classes, by its labels" if count > 1 else "has no labels: one class"
    else:
        return
    print(f"{images['path']}: {said}", file=sys.stderr)


def _say_unused_labels(tokenizers: Iterable[Mapping[str, Any]]) -> None:
    """Say that files of latents hold labels, which a person may take to be used."""
    for entry in tokenizers:
        for name in held_names(entry["path"]):
            if name in LABELS:
                path = entry["path"]
                print(f"{path}: its `{name}` are not used; with: --labels {path}", file=sys.stderr)


def _study(arguments: argparse.Namespace) -> dict[str, Any]:
    named: dict[str, Any] = {name: getattr(arguments, name) for name in OPTIONS}
    if not arguments.study:
        return requested_study(Request(items=arguments.items, **named, metrics=arguments.metrics))
    kinds = {kind: name for kind, name in arguments.items if kind not in ("", "tokenizer")}
    ignored = [*kinds, *(name for name, value in named.items() if value is not None)]
    if ignored:
        raise StudyError(
            f"--{ignored[0]}: a study file states its images, networks and files itself; leave the "
            "option out, or change the file (--study)"
        )
    names = [name for _, name in arguments.items]
    return study_without_models(arguments.study, names, arguments.metrics)


def main(words: Sequence[str]) -> int:
    """Parse the words after `diffusability score` and run it."""
    parser = argparse.ArgumentParser(prog="diffusability score", description=DESCRIPTION)
    add_arguments(parser)
    return score_command(parser.parse_intermixed_args(words))  # names between options


DESCRIPTION = (
    "Measure latent spaces of your own from every perspective, without training a diffusion model."
)
