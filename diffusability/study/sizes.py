"""Whether latents, patches and networks fit the size of the images."""

from diffusability.study.encoder import LpipsEncoder, MaskedEncoder
from diffusability.study.linear_tokenizer import LinearTokenizer
from diffusability.study.problems import Problems
from diffusability.study.study import Study
from diffusability.study.tokenizer import TokenizerSpec


def check_sizes(study: Study, problems: Problems) -> None:
    """Record what does not divide the image, and patches that do not divide the latent grid."""
    size = study.dataset.size
    for name in study.selected_tokenizers:
        spec = study.tokenizers[name]
        factor = spec.factor
        key = "network.factor" if isinstance(spec, TokenizerSpec) else "factor"
        if size % factor:
            problems.add(
                f"tokenizers.{name}.{key}",
                f"{factor} does not divide the image size {size} of "
                f"`{study.select.dataset}`; the latent would not be a whole grid",
            )
            continue
        _check_network(name, study, problems)
        for backbone in study.selected_backbones:
            for key, reason in study.backbones[backbone].misfits(size // factor):
                problems.add(f"backbones.{backbone}.{key}", f"{reason} of `{name}`")
    for name in study.used_encoders:
        encoder = study.encoders[name]
        if isinstance(encoder, LpipsEncoder) and size < encoder.smallest:
            problems.add(
                f"encoders.{name}",
                f"LPIPS needs images of {encoder.smallest} pixels a side, these have {size}",
            )
        factor = encoder.factor
        if size % factor:
            problems.add(
                f"encoders.{name}.factor", f"{factor} does not divide the image size {size}"
            )
        elif isinstance(encoder, MaskedEncoder):
            cells = (size // factor) ** 2
            hidden = round(encoder.ratio * cells)
            if not 0 < hidden < cells:
                problems.add(
                    f"encoders.{name}.ratio",
                    f"{encoder.ratio} hides {hidden} of {cells} cells of {factor} x {factor} "
                    "pixels; some must be hidden and some seen",
                )


def _check_network(name: str, study: Study, problems: Problems) -> None:
    """A linear map cannot have more dimensions than the image, and every halving must be whole."""
    spec, data = study.tokenizers[name], study.dataset
    if isinstance(spec, LinearTokenizer):
        problem = spec.problem(data.image_channels)
        if problem is not None:
            problems.add(f"tokenizers.{name}.channels", problem)
        return
    network = getattr(spec, "network", None)
    if network is not None:
        for key, reason in network.misfits(data.size):
            problems.add(f"tokenizers.{name}.network.{key}", reason)
