"""Stage `encoder`: train a small network on the study's images, or copy published weights."""

from pathlib import Path
from typing import Annotated, Any

from diffusability.encoders.load import EncoderKind
from diffusability.stages.inputs import Inputs
from diffusability.study.entries.encoder import ENCODERS, EncoderEntry


def make(inputs: Inputs, spec: Annotated[EncoderEntry, ENCODERS], out: Path) -> None:
    """Write model.safetensors and history.csv; of what is not trained it has no rows."""
    kind: EncoderKind[Any] = ENCODERS.code(spec)(spec)
    kind.make(inputs.job, out)
