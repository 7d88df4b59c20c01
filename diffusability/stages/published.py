"""Copy published weights into artifacts of the stage `encoder`."""

import logging
from pathlib import Path

from diffusability.artifacts.job import Job
from diffusability.encoders.inception import import_inception
from diffusability.encoders.representation import import_representation
from diffusability.encoders.vision import import_vision
from diffusability.study.encoder import RepresentationEncoder, VisionEncoder
from diffusability.study.representations import representation_file
from diffusability.study.vision_models import weight_file
from diffusability.tokenizers.perceptual import LpipsPerceptual

logger = logging.getLogger(__name__)

PUBLISHED = ("vision", "representation", "inception", "lpips")  # kinds of encoders


def copy_published(job: Job, folder: Path) -> None:
    """Write model.safetensors, once the weights fit their network, and a history without rows.

    Raises:
        ArtifactError: the weight file is missing, damaged, or of another network.
        StudyError: the package that holds the network is missing.
    """
    target = folder / "model.safetensors"
    if job.spec["kind"] == "vision":
        spec = VisionEncoder.model_validate(job.options)
        weights = weight_file(spec.model, spec.weights)
        import_vision(spec.model, weights, target)
    elif job.spec["kind"] == "representation":
        entry = RepresentationEncoder.model_validate(job.options)
        weights = representation_file(entry.model, entry.weights)
        import_representation(entry.model, weights, target)
    elif job.spec["kind"] == "inception":
        weights = Path(job.local["weights"])
        import_inception(weights, target)
    else:
        weights = Path(job.local["weights"])
        LpipsPerceptual.from_vgg(weights).save(target)
    logger.info("%s: copied %s", job.name, weights)
    (folder / "history.csv").write_text("step\n")
