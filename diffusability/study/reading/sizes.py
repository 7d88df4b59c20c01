"""Whether latents, patches, networks and classifiers fit the images and their classes."""

from diffusability.study.core.problems import Problems
from diffusability.study.entries.trained_encoder import SupervisedEncoder
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.study.study import Study


def check_sizes(study: Study, problems: Problems) -> None:
    """Record what does not divide the image, and patches that do not divide the latent grid."""
    size = study.dataset.size
    for name in study.made_tokenizers:
        spec = study.tokenizers[name]
        for key, reason in spec.misfits(size, study.dataset.image_channels):
            problems.add(f"tokenizers.{name}.{key}", reason)
        if isinstance(spec, TokenizerSpec):
            _check_perceptual(name, spec, study, problems)
        if size % spec.factor or name not in study.selected_tokenizers:
            continue
        for backbone in study.selected_backbones:
            for key, reason in study.backbones[backbone].misfits(size // spec.factor):
                problems.add(f"backbones.{backbone}.{key}", f"{reason} of `{name}`")
    for name in study.used_encoders:
        if name not in study.encoders:  # its own problem is listed
            continue
        encoder = study.encoders[name]
        for key, reason in encoder.misfits(size):
            problems.add(f"encoders.{name}.{key}".rstrip("."), reason)
        if isinstance(encoder, SupervisedEncoder) and study.dataset.num_classes < 2:
            problems.add(
                f"encoders.{name}.kind",
                f"a classifier has nothing to learn from the {study.dataset.num_classes} class of "
                f"`{study.select.dataset}`; use kind contrastive or masked",
            )


def _check_perceptual(name: str, spec: TokenizerSpec, study: Study, problems: Problems) -> None:
    """Images that a training makes smaller must not be too small for the perceptual distance."""
    size, encoder = study.dataset.size, spec.objective.perceptual_encoder
    if encoder is None or encoder not in study.encoders or size % spec.factor:
        return
    least, smallest = study.encoders[encoder].smallest_image, spec.smallest_image(size)
    if smallest < least <= size:  # larger than the images themselves: the encoder's own misfit
        problems.add(
            f"tokenizers.{name}.objective.perceptual_encoder",
            f"`{encoder}` needs images of {least} pixels a side, and method "
            f"{spec.regularizer.method} scales those of {size} down to {smallest}; leave `scale` "
            "out of `operators`, or name another encoder",
        )
