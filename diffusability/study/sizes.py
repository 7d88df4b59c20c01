"""Whether latents, patches and networks fit the size of the images."""

from diffusability.study.problems import Problems
from diffusability.study.study import Study


def check_sizes(study: Study, problems: Problems) -> None:
    """Record what does not divide the image, and patches that do not divide the latent grid."""
    size = study.dataset.size
    for name in study.selected_tokenizers:
        spec = study.tokenizers[name]
        for key, reason in spec.misfits(size, study.dataset.image_channels):
            problems.add(f"tokenizers.{name}.{key}", reason)
        if size % spec.factor:
            continue
        for backbone in study.selected_backbones:
            for key, reason in study.backbones[backbone].misfits(size // spec.factor):
                problems.add(f"backbones.{backbone}.{key}", f"{reason} of `{name}`")
    for name in study.used_encoders:
        if name not in study.encoders:  # its own problem is listed
            continue
        for key, reason in study.encoders[name].misfits(size):
            problems.add(f"encoders.{name}.{key}".rstrip("."), reason)
