"""Copy the published weights of Inception and LPIPS into artifacts of the stage `encoder`."""

import logging
from pathlib import Path

from diffusability.artifacts.job import Job
from diffusability.encoders.inception import import_inception
from diffusability.tokenizers.perceptual import LpipsPerceptual

logger = logging.getLogger(__name__)

PUBLISHED = ("inception", "lpips")  # kinds of encoders


def copy_published(job: Job, folder: Path) -> None:
    """Write model.safetensors, once the weights fit their network, and a history without rows.

    Raises:
        ArtifactError: the weight file is missing, damaged, or of another network.
        StudyError: the package that holds the network is missing.
    """
    weights, target = Path(job.local["weights"]), folder / "model.safetensors"
    if job.spec["kind"] == "inception":
        import_inception(weights, target)
    else:
        LpipsPerceptual.from_vgg(weights).save(target)
    logger.info("%s: copied %s", job.name, weights)
    (folder / "history.csv").write_text("step\n")
