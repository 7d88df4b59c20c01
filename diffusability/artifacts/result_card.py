"""Cards of tables, figures and reports: from which files they were made, and their hashes.

The card of what one script wrote is `provenance/<first file>.json` beside it. It is no output of a
rule: results of an earlier version have none and stay valid.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from diffusability.artifacts.atomic import sha256, write_json
from diffusability.artifacts.card import read_card
from diffusability.errors import ArtifactError
from diffusability.study.core.commands import snakemake_command
from diffusability.study.planning.stages import CARD, RESULTS

FOLDER = "provenance"  # beside the files


class ResultCard(BaseModel):
    """What such a card holds.

    Attributes:
        study: name of the study. fingerprint: of its plan.
        inputs: SHA-256 of every file that was read. outputs: and of every file written.
    """

    model_config = ConfigDict(strict=True)
    study: str
    fingerprint: str
    inputs: dict[str, str]
    outputs: dict[str, str]


def hashes(files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by path; those of artifacts are taken from their cards."""
    found = {}
    for file in files:
        if (file.parent / CARD).exists():
            found[str(file)] = str(read_card(file.parent)["outputs"][file.name]["sha256"])
        elif file.exists():
            found[str(file)] = sha256(file)
    return found


def write_result_card(
    outputs: Sequence[Path], inputs: Mapping[str, str], study: str, fingerprint: str
) -> None:
    """Write the card of what one script wrote; `inputs` are hashed before they are read."""
    card = {
        "study": study,
        "fingerprint": fingerprint,
        "inputs": dict(inputs),
        "outputs": {str(path): sha256(path) for path in outputs},
    }
    write_json(outputs[0].parent / FOLDER / f"{outputs[0].name}.json", card)


def result_cards(folder: Path | None = None) -> Iterator[Path]:
    """Yield the cards in one folder, or of all tables, figures and reports."""
    if folder is not None:
        yield from sorted(folder.glob(f"{FOLDER}/*.json"))
        return
    yield from result_cards(Path(RESULTS))
    for kind in ("tables", "figures"):
        yield from sorted(Path(RESULTS, kind).glob(f"*/{FOLDER}/*.json"))


def check_result(path: Path) -> None:
    """Refuse a table that was altered after it was made; one without a card is accepted.

    Raises:
        ArtifactError: with the command that makes it again.
    """
    for card in result_cards(path.parent):
        expected = _read(card).outputs.get(str(path))
        if expected is not None and path.is_file() and sha256(path) != expected:
            raise ArtifactError(_altered(str(path)))


def made_for(path: Path) -> str | None:
    """Return the fingerprint of the study that a file was made for; None: it has no card."""
    for card in result_cards(path.parent):
        found = _read(card)
        if str(path) in found.outputs:
            return found.fingerprint
    return None


def result_problems(card: Path, alone: bool = False) -> list[str]:
    """Return what is wrong with the files of one card, each with the command that mends it.

    With `alone`, files that were copied without those that they were made from are right.
    """
    try:
        found = _read(card)
    except ArtifactError as error:
        return [str(error)]
    wrong = []
    for name, expected in found.outputs.items():
        if not Path(name).is_file():
            wrong.append(f"{name}: is missing. Make it with: {_again(name)}")
        elif sha256(Path(name)) != expected:
            wrong.append(_altered(name))
    first = next(iter(found.outputs), str(card))
    for name, expected in found.inputs.items():
        if Path(name).is_file() and sha256(Path(name)) != expected:
            wrong.append(f"{first}: was made from another {name}. Make it again: {_again(first)}")
        elif not Path(name).is_file() and not alone:
            wrong.append(
                f"{name}: is missing, although {first} was made from it. Make it again with: "
                f"{_again(name)}"
            )
    return wrong


def _read(card: Path) -> ResultCard:
    try:
        return ResultCard.model_validate(json.loads(card.read_text()))
    except (OSError, ValueError, RecursionError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        made: Any = card.parent.parent / card.stem
        raise ArtifactError(
            f"{card}: damaged card ({what!s:.80}). Make the files again with: {_again(str(made))}"
        ) from None


def _altered(name: str) -> str:
    return (
        f"{name}: was altered after it was made (its SHA-256 differs from its card). "
        f"Make it again with: {_again(name)}"
    )


def _again(name: str) -> str:
    return snakemake_command("-c1", "-f", name)
