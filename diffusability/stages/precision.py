"""How a GPU multiplies float32 matrices: in TF32 where networks are trained and sampled.

TF32 rounds both factors of a product to 11 significant bits (a relative error of 2^-11, or 5e-4)
and adds in float32; on an H100 it has several times the throughput. The official trainings of SiT,
DiT and LightningDiT turn it on. It is an option of execution: two runs of one training differ by
such roundings, as they do between two GPUs, and no fingerprint depends on it.

What metrics read is computed in full float32, convolutions too, which torch does in TF32 by
default: rounding would add noise to the weakest directions of a latent space.
"""

import os

import torch

from diffusability.errors import StudyError
from diffusability.study.planning.stages import IN_TF32

VARIABLE = "DIFFUSABILITY_TF32"  # 1, the default, or 0


def set_float32_precision(stage: str, device: str) -> bool:
    """Set how this process multiplies float32 matrices on a GPU, and return whether in TF32.

    Args:
        stage: what is made.
        device: on which; on a CPU nothing is set.

    Raises:
        StudyError: the environment variable says neither 0 nor 1.
    """
    asked = os.environ.get(VARIABLE, "1")
    if asked not in ("0", "1"):
        raise StudyError(
            f"the environment variable {VARIABLE} is {asked!r}; 1 allows TF32 where networks are "
            f"trained and sampled, 0 forbids it; `unset {VARIABLE}` for the default, 1"
        )
    if torch.device(device).type != "cuda":
        return False
    allowed = asked == "1" and stage in IN_TF32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    return allowed
