"""How an encoder bends the data: tangential distortion, curvature, and what they do to FIR.

The three penalties of Theorem 3.5 of "Understanding Latent Diffusability via Fisher Geometry"
(arXiv 2604.02751), measured with Jacobian-vector products of the encoder. Latents are multiplied by
one number so that their total variance is that of the images, as in ``metrics.fisher``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.data.images import thinned
from diffusability.errors import MeasurementError
from diffusability.fisher.information import check_variances, log_weights
from diffusability.metrics.latent_set import ONE_CLASS
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.sample_fisher import LOOSE, SMALL, Sample, tells_overlap
from diffusability.nn.attention import forward_mode_attention
from diffusability.nn.chunks import chunks
from diffusability.statistics import delete_block_stderr, mean_and_stderr

Encoder = Callable[[Tensor], Tensor]
PARTS = ("dimension", "tangential", "curvature")
# ending of a metric: the estimator of FIR
_ESTIMATORS = {"": "_unconditional", "_empirical": "_empirical"}
_BATCH = 64  # images at once; with their tangents they take twice the memory
_NO_DIRECTION = 1e-6  # of a step's length that lies outside earlier steps: rounding of images


@dataclass(frozen=True)
class Expansion:
    """An encoder and its first-order Taylor expansions around some of the images.

    Attributes:
        images: (N, D) float64. latents: (N, d), scaled to the total variance of the images.
        tangents: (A, k, k) inner products of DE(a) t_i over orthonormal directions t_i, which span
            the differences of a to its nearest images; the identity if DE(a) is isometric there.
        remainders: (A,) mean over images of |E(x) - E(a) - DE(a) (x - a)|^2.
        linear: (N, d) E(a) + DE(a) (x - a) for the a with the smallest remainder.
    """

    images: Tensor
    latents: Tensor
    tangents: Tensor
    remainders: Tensor
    linear: Tensor


def expand(encode: Encoder, images: Tensor, *, anchors: Tensor, neighbours: int) -> Expansion:
    """Expand an encoder around some of the images.

    Args:
        encode: (B, C, H, W) to (B, d, h, w), differentiable forwards, in evaluation mode.
        images: (N, C, H, W), more than ``neighbours``.
        anchors: (A,) positions of the images to expand around.
        neighbours: directions at each; k are fewer where images span fewer.

    Raises:
        MeasurementError: there are too few images, or all latents are equal.
    """
    if len(images) <= max(neighbours, 2):
        raise MeasurementError(
            f"{len(images)} images have no {neighbours} neighbours each; give more images or "
            "fewer `neighbours`"
        )
    with torch.no_grad():
        latents = torch.cat([encode(part).flatten(1) for part in _few(images)]).double()
    flat = images.flatten(1).double()  # (N, D)
    spread = [(x - x.mean(dim=0)).square().sum() / len(x) for x in (flat, latents.to(flat))]
    if not float(spread[1]) > 0:
        raise MeasurementError("all latents are equal: the encoder has collapsed")
    scale = float((spread[0] / spread[1]).sqrt())
    latents = scale * latents.to(flat)
    tangents, remainders, best = [], [], None
    for a in anchors.tolist():
        steps = flat - flat[a]  # (N, D)
        frame = _nearest_directions(steps, neighbours)  # (k, D)
        pushed = scale * _push(encode, images[a], torch.cat((frame, steps)))
        along, linear = pushed[: len(frame)], latents[a] + pushed[len(frame) :]
        tangents.append(along @ along.T)
        remainders.append((latents - linear).square().sum(dim=1).mean())
        if best is None or float(remainders[-1]) < best[0]:
            best = (float(remainders[-1]), linear)
    assert best is not None  # there is an anchor
    return Expansion(flat, latents, torch.stack(tangents), torch.stack(remainders), best[1])


def _nearest_directions(steps: Tensor, count: int) -> Tensor:
    """Return at most (count, D) orthonormal directions of the shortest of (N, D) steps.

    Steps that add no direction are passed over: of length zero, as to a duplicate of an image, or
    along earlier ones.
    """
    frame = steps.new_zeros(0, steps.shape[1])
    for step in steps[steps.norm(dim=1).argsort()]:
        rest = step
        for _ in range(2):  # Gram and Schmidt, twice for rounding
            rest = rest - frame.T @ (frame @ rest)
        length = rest.norm()
        if bool(length > _NO_DIRECTION * step.norm()):
            frame = torch.cat((frame, rest[None] / length))
        if len(frame) == count:
            break
    return frame


def _push(encode: Encoder, image: Tensor, directions: Tensor) -> Tensor:
    """Return DE(image) applied to (M, D) directions: (M, d) float64 on their device."""
    rows = []
    for tangents in _few(directions.to(image.dtype).view(-1, *image.shape)):
        points = image.expand_as(tangents).contiguous()
        with forward_mode_attention(), torch.no_grad():
            rows.append(torch.func.jvp(encode, (points,), (tangents,))[1].flatten(1))
    return torch.cat(rows).to(directions)


def _few(images: Tensor) -> Iterator[Tensor]:
    """Yield a few images at a time: at most _BATCH, and large ones fewer."""
    for part in images.split(_BATCH):
        yield from chunks(part)


def measure_distortion(
    encode: Encoder,
    images: Tensor,
    labels: Tensor,
    v: Sequence[float],
    *,
    anchors: int = 16,
    neighbours: int = 8,
    seed: int = 0,
    blocks: int = 10,
    samples: int = 128,
) -> list[Measurement]:
    """Measure epsilon, kappa, and the parts of the FIR deviation that each penalty makes.

    Args:
        encode: see ``expand``. images: (N, C, H, W) in [-1, 1]. labels: (N,) classes.
            Where they are too many for the images, all are taken as one, with a flag.
        v: noise variances, in units of the mean variance of a pixel.
        anchors: images to expand around, of each class in proportion.
        neighbours: see ``expand``. seed, blocks, samples: see ``sample_fisher.Sample``.

    Returns:
        ``distortion.epsilon``, the mean over anchors of the operator norm of DE^T DE - I along
        neighbours, and ``distortion.kappa``, that of the root of the Taylor remainder over the root
        of the total variance (both LOWER is nearer to an isometry, errors over anchors).
        v^2 (F_d - F_D) / D is the sum of ``distortion.fir_dimension`` = (d - D) / D,
        ``distortion.fir_tangential`` (of the expansion around the best anchor against an isometry)
        and ``distortion.fir_curvature`` (of the encoder against that expansion): signed means over
        log v, and ``distortion.curve_fir_<part>_v<v>``; jackknife errors over images. An ending
        ``_empirical`` is of the smoothed empirical measure instead of the mixture of classes.
        ``distortion.theorem_constant`` is the smallest C with which Theorem 3.5 holds at all v,
        |deviation - (d - D) / D| <= C (epsilon + kappa / sqrt(v)), with the largest epsilon and the
        smallest kappa of the anchors; none where that epsilon is not below 1, as the theorem asks.

    Raises:
        MeasurementError: see ``expand``; or v are not positive and increasing.
    """
    check_variances(v)
    chosen = thinned(torch.arange(len(images)), anchors, labels.cpu())
    at = expand(encode, images, anchors=chosen, neighbours=neighbours)
    dims = at.images.shape[1], at.latents.shape[1]
    variance = (at.images - at.images.mean(dim=0)).square().sum() / len(at.images)
    identity = torch.eye(at.tangents.shape[1]).to(at.tangents)
    strains = torch.linalg.eigvalsh(at.tangents - identity).abs().amax(dim=1)  # (A,)
    bends = (at.remainders / variance).sqrt()  # (A,)
    options: dict[str, object] = {
        "anchors": len(strains),
        "neighbours": at.tangents.shape[1],
        "dim": dims[1],
    }
    found = []
    for name, values in (("epsilon", strains), ("kappa", bends)):
        value, error = mean_and_stderr(values.cpu(), "distortion", "anchors")
        more = options | {"least": float(values.min())}
        found.append(_row(name, value, error, len(values), False, more))
    told = tells_overlap(labels)
    if not told:
        labels = torch.zeros_like(labels)
    parts, sizes, doubts = _parts(at, labels, v, float(variance), seed, blocks, samples)
    weights = torch.tensor(log_weights(v), dtype=torch.float64)
    for ending, curves in parts.items():  # (1 + B, V, 3)
        doubtful = [level for level, bad in zip(v, doubts[ending], strict=True) if bad]
        text = LOOSE if ending else SMALL
        small = (text.format(f"{doubtful[-1]:g}"),) if doubtful else ()
        always = () if told or ending else (ONE_CLASS,)
        more = options | {"estimator": _ESTIMATORS[ending].strip("_"), "v": list(v)}
        for part, values in zip(PARTS, curves.unbind(-1), strict=True):
            exact = part == PARTS[0]  # a dimension is no estimate
            known = () if exact else (*small, *always)
            columns = {f"fir_{part}{ending}": (values @ weights, known, more)}
            for i, level in enumerate(v):
                at_v = (
                    values[:, i],
                    known if exact or level in doubtful else always,
                    more | {"v": level},
                )
                columns[f"curve_fir_{part}{ending}_v{level:g}"] = at_v
            for name, (column, marks, said) in columns.items():
                error = delete_block_stderr(float(column[0]), column[1:], sizes)
                found.append(_row(name, float(column[0]), error, len(images), None, said, marks))
        if float(strains.max()) < 1:
            rest = curves[0, :, 1:].sum(dim=1).abs()  # (V,)
            noise = torch.tensor(v, dtype=torch.float64).sqrt() / dims[0] ** 0.5
            bound = (float(strains.max()) + float(bends.min()) / noise).clamp(min=1e-12)
            constant = float((rest / bound).max())
            name = f"theorem_constant{ending}"
            found.append(_row(name, constant, None, len(images), None, options, (*small, *always)))
    return found


def _parts(
    at: Expansion,
    labels: Tensor,
    v: Sequence[float],
    variance: float,
    seed: int,
    blocks: int,
    samples: int,
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Return parts of v^2 (F_d - F_D) / D by estimator.

    Returns:
        (1 + B, V, 3) by ending; (B,) block sizes; (V,) bool by ending, whether the images are too
        few at this noise variance for any of the three spaces.
    """
    level = torch.tensor(v, dtype=torch.float64) * variance / at.images.shape[1]
    gaps: dict[str, list[Tensor]] = {}
    doubts = {ending: torch.zeros(len(v), dtype=torch.bool) for ending in _ESTIMATORS}
    sizes = torch.zeros(0)
    for data in (at.images, at.linear, at.latents):
        sample = Sample(
            data[:, :, None, None],
            torch.arange(len(data)),
            labels,
            blocks=blocks,
            samples=samples,
            seed=seed,
        )
        sizes = sample.sizes
        curves = sample.curves(level.expand(1 + len(sizes), -1), list(_ESTIMATORS.values()))
        for ending, name in _ESTIMATORS.items():
            gains = curves.gains[name]
            gaps.setdefault(ending, []).append(gains[..., 1] - 2 * gains[..., 0])
            doubts[ending] |= curves.doubtful[name]
    pixels, dim = at.images.shape[1], at.latents.shape[1]
    found = {}
    for ending, (of_pixels, linear, whole) in gaps.items():
        size = torch.full_like(whole, dim - pixels)
        found[ending] = torch.stack((size, linear - of_pixels, whole - linear), dim=-1) / pixels
    return found, sizes, doubts


def _row(
    name: str,
    value: float,
    error: float | None,
    count: int,
    better: bool | None,
    options: Mapping[str, object],
    flags: tuple[str, ...] = (),
) -> Measurement:
    name = f"distortion.{name}"
    return Measurement(name, value, error, count, "1", better, dict(options), flags)
