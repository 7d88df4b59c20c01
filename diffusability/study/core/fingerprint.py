"""Names of artifacts: a hash of everything that made them, and seeds derived by hash."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGITS = 12


def canonical_json(value: Any) -> str:
    """Return one text for one meaning: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(
    stage: str, version: int, spec: Mapping[str, Any], seed: int, upstream: Mapping[str, str]
) -> str:
    """Return the 12 hexadecimal digits that name an artifact.

    Args:
        stage: the stage that makes it.
        version: the stage's declared version, raised when its code changes meaning.
        spec: resolved options of this stage alone, defaults included.
        seed: seed of the artifact.
        upstream: fingerprints of what it is made from, by role.
    """
    identity = {
        "stage": stage,
        "version": version,
        "spec": spec,
        "seed": seed,
        "upstream": dict(upstream),
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:DIGITS]


def derive_seed(*parts: str | int) -> int:
    """Return a 63-bit seed that depends on every part, so that no two uses share a stream."""
    digest = hashlib.sha256(canonical_json(list(parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
