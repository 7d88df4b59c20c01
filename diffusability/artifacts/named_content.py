"""Names that a study gives to files (`content: imagenet`): each stands for the same bytes for ever.

Such a name enters fingerprints where a hash of the bytes would stand otherwise. What it stands for
is recorded in results/contents/ when it is first used. Other bytes under the same name are refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from diffusability.artifacts.atomic import write_json
from diffusability.errors import DataError
from diffusability.study.planning.stages import RESULTS
from diffusability.study.preflight.needs import named_contents
from diffusability.study.study import Study


def check_named_contents(study: Study, record: bool) -> None:
    """Refuse a study in which a name stands for other files than before, or for two.

    Image folders that are too large to be hashed at the start are compared by their first job.

    Args:
        study: whose names are compared. record: whether new names are recorded.

    Raises:
        DataError: with the place of the files and the remedy.
    """
    for named in named_contents(study):
        record_name(named.kind, named.name, named.digests, named.place, record)


def record_name(
    kind: str, name: str, digests: Mapping[str, str | None], place: str, record: bool = True
) -> None:
    """Compare what a name stands for with what is recorded, and record it if that is new.

    Args:
        kind: what is named, for messages: `images` or `autoencoder files`.
        name: as the study gives it.
        digests: of its parts by their names; None where a part is not known.
        place: where the files are, for messages.
        record: whether a new name is recorded.

    Raises:
        DataError: a part has another digest than recorded.
    """
    path = Path(
        RESULTS, "contents", f"{hashlib.sha256(f'{kind} {name}'.encode()).hexdigest()[:12]}.json"
    )
    known = {part: digest for part, digest in digests.items() if digest is not None}
    try:
        before = dict(json.loads(path.read_text())["digests"])
    except (OSError, ValueError, KeyError, TypeError):
        before = {}
    if others := [part for part in known if before.get(part, known[part]) != known[part]]:
        raise DataError(
            f"{place}: not the {kind} that the name `{name}` stands for in {RESULTS}/ (differing: "
            f"{', '.join(others)}), and results may have been made from those. Give these another "
            f"`content`, or none; if nothing was made from the others, remove {path}"
        )
    if record and known.keys() - before.keys():
        write_json(path, {"kind": kind, "name": name, "digests": {**before, **known}})
