"""The metric groups that a study measures on latents: options and declaration, side by side.

To add one, declare its options model here. `docs/extending.md` walks through it. The seven
perspectives of the systematic study are declared first, in `perspectives.py`.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, create_model, model_validator

from diffusability.study.core.names import EncoderName
from diffusability.study.core.spec import Spec, is_none
from diffusability.study.metrics.generation import GenerationMetric
from diffusability.study.metrics.metric_group import (
    ClassMetricOptions,
    MetricOptions,
    Passes,
    Split,
)
from diffusability.study.metrics.perspectives import METRIC_GROUPS
from diffusability.study.metrics.quantity import Quantity

__all__ = ["METRIC_GROUPS", "MetricsSpec"]


@METRIC_GROUPS.add(
    "reconstruction",
    code="diffusability.stages.image_metrics:reconstruction",
    about="What the tokenizer itself loses: PSNR, SSIM, Fréchet distance.",
    outputs=("reconstructions.png",),
    upstream=("alignment",),
    version=3,
    gpu=True,
    quantities=(
        Quantity(
            "reconstruction.psnr",
            "peak signal-to-noise ratio, mean over images",
            "higher",
            unit="dB",
        ),
        Quantity("reconstruction.ssim", "structural similarity", "higher"),
        Quantity("reconstruction.mse", "mean squared error of pixel values in [-1, 1]", "lower"),
        Quantity(
            "reconstruction.lpips",
            "perceptual distance, where `metrics.reconstruction.lpips` names an encoder",
            "lower",
        ),
        Quantity(
            "reconstruction.fid reconstruction.fd_*",
            "Fréchet distance between reconstructions and images",
            "lower",
            unit="feature^2",
        ),
        Quantity(
            "reconstruction.alignment_cosine",
            "cosine between a vision encoder's features and their linear prediction from "
            "the latent",
            "higher",
        ),
        Quantity(
            "reconstruction.posterior_variance_share",
            "variance of the posterior over variance of its mean",
            "none",
        ),
        Quantity(
            "reconstruction.kl",
            "divergence of the posterior from the standard normal",
            "none",
            unit="nat/dim",
        ),
    ),
    needs=("images", "network", "decoder"),
)
class ReconstructionMetric(MetricOptions):
    r"""PSNR, SSIM, LPIPS and Fréchet distance of reconstructions.

    $$ \mathrm{PSNR} = 10 \log_{10} \frac{4}{\mathrm{mean}\,(x - \hat x)^2}, \qquad
       \mathrm{KL} = \tfrac12\,\mathrm{mean}\big(\mu^2 + \sigma^2 - 1 - \log \sigma^2\big). $$
    """

    extractor: EncoderName | None = Field(
        None, description="encoder of the Fréchet distance; none: not measured"
    )
    lpips: EncoderName | None = Field(
        None, exclude_if=is_none, description="encoder of kind lpips; none: not measured"
    )

    @property
    def encoders(self) -> dict[str, str]:
        """The feature extractor of the distances, and LPIPS where it is measured."""
        named = {"extractor": self.extractor, "lpips": self.lpips}
        return {role: name for role, name in named.items() if name is not None}

    def fingerprinted(self) -> dict[str, Any]:
        """Return the options without the name of LPIPS, which is in no metric's name."""
        return {key: value for key, value in self.canonical().items() if key != "lpips"}

    def passes(self) -> Passes:
        """Each latent is decoded; features are extracted from the image and its reconstruction."""
        return Passes(decoder=1, extractor=0 if self.extractor is None else 2)


@METRIC_GROUPS.add(
    "geometry",
    code="diffusability.stages.latent_metrics:geometry",
    about="Does encoding keep distances, and what spectra do latents have?",
    outputs=("spectra.csv",),
    quantities=(
        Quantity(
            "geometry.stretch_min geometry.stretch_max",
            "smallest and largest quotient of latent distance and image distance over all pairs",
            "none",
        ),
        Quantity("geometry.stretch_q*", "its quantiles: 1, 5, 50, 95, 99 %", "none"),
        Quantity(
            "geometry.stretch_ratio geometry.stretch_q99_q01",
            "largest over smallest; 99 % over 1 % quantile; 1 keeps all distances up to scale",
            "lower",
        ),
        Quantity(
            "geometry.grid_slope geometry.line_slope",
            "slope of log power against log frequency, on the grid and along the vector; "
            "0 is white",
            "none",
        ),
        Quantity(
            "geometry.grid_falling geometry.line_falling",
            "share of neighbouring frequencies between which power falls",
            "none",
        ),
        Quantity(
            "geometry.*_permuted_*",
            "the same after all entries were put in one random order",
            "none",
        ),
    ),
    needs=("images",),
)
class GeometryMetric(MetricOptions):
    r"""Stretching of distances (bi-Lipschitz constants) and power spectra of latents.

    How does an encoder stretch distances? Measured only where a study declares `metrics.geometry`.

    The quotient of two images is $\lVert E(x) - E(x') \rVert / \lVert x - x' \rVert$. Source:
    Fisher paper, Table 1 and Fig. 13.
    """

    images: int = Field(500, ge=20, description="maximum number, drawn at random from the split")


@METRIC_GROUPS.add(
    "distortion",
    code="diffusability.stages.image_metrics:distortion",
    about="What of an encoder's FIR deviation is dimension, tangential distortion, curvature?",
    gpu=True,
    version=5,
    needs=("images", "network"),
    quantities=(
        Quantity(
            "distortion.epsilon",
            "operator norm of $DE^T DE - I$ along differences to the nearest images",
            "lower",
        ),
        Quantity(
            "distortion.kappa",
            "root mean square Taylor remainder, over the standard deviation of the images",
            "lower",
        ),
        Quantity(
            "distortion.fir_dimension distortion.fir_tangential distortion.fir_curvature",
            "parts of $v^2 (F_d - F_D) / D$, means over noise levels",
            "none",
        ),
        Quantity(
            "distortion.theorem_constant",
            "smallest C with which Theorem 3.5 holds, where epsilon is below 1",
            "none",
        ),
        Quantity(
            "distortion.*_empirical",
            "of the smoothed empirical measure instead of the mixture of classes",
            "as above",
        ),
        Quantity("distortion.curve_*_v*", "a part at one noise variance v", "none"),
    ),
)
class DistortionMetric(MetricOptions):
    r"""The penalties of Theorem 3.5 for an encoder: dimension, tangential distortion, curvature.

    How does an encoder bend the data? Measured only where a study declares `metrics.distortion`.

    Latents are multiplied by one number, so that their total variance is that of the images. At
    an image $a$, Jacobian-vector products give $DE(a)$ along its nearest images, hence
    $\varepsilon = \lVert DE^T DE - I \rVert$, and the Taylor remainder

    $$ \kappa^2 = \mathbb{E}_x\,\lVert E(x) - E(a) - DE(a)(x - a) \rVert^2. $$

    The deviation of FIR is a sum: an isometry to $d$ dimensions has that of the dimension alone
    (Lemma B.1); the expansion $E(a) + DE(a)(x - a)$ adds the tangential part; the encoder itself
    adds the curvature. Source: Fisher paper, Eq. 7, Theorems 3.4 and 3.5.
    """

    images: int = Field(360, ge=20, description="maximum number, of each class in proportion")
    anchors: int = Field(16, ge=2, description="images that the encoder is expanded around")
    neighbours: PositiveInt = Field(8, description="nearest images that give the directions")
    variances: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
        min_length=2,
        description="noise variances sigma^2, increasing, relative to the mean variance of a pixel",
    )

    def passes(self) -> Passes:
        """Every image is encoded, and pushed through the Jacobian at every anchor."""
        return Passes(encoder=1 + 2 * self.anchors)


class LearnedFisherMetric(Spec):
    """The same quantities from the trained diffusion models, with one JVP per probe."""

    split: Split = Field(
        "val",
        description="images whose latents (a draw of each posterior) are diffused; best held out",
    )
    latents: int = Field(512, ge=20, description="maximum number, of each class in proportion")
    probes: PositiveInt = Field(1, description="random directions per noisy latent")
    draws: PositiveInt = Field(1, description="noises per latent")
    seeds: Literal["first", "all"] = Field(
        "all", description="models of the first pair of seeds of a tokenizer, or of all"
    )
    backbones: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all", description="backbones whose models are measured"
    )


class LearnedFisherOptions(LearnedFisherMetric):
    """What is measured of one trained model."""

    variances: tuple[Annotated[float, Field(gt=0)], ...]


@METRIC_GROUPS.add(
    "fisher",
    code="diffusability.stages.latent_metrics:fisher",
    about="Fisher information, its rate and the MMSE rate; deviations from pixel space.",
    title="Fisher geometry",
    shows={
        "FIR": "fisher.fir",
        "MMSE rate": "fisher.mmse_rate",
        "FIR deviation": "fisher.fir_deviation_per_dimension",
        "learned FIR": "fisher.learned_fir",
    },
    rank="proxy",
    upstream=("pixels",),
    version=5,
    quantities=(
        Quantity(
            "fisher.fi",
            "Fisher information FI, mean over noise levels, of a Gaussian per class; the next "
            "rows too",
            "none",
        ),
        Quantity("fisher.fir", "Fisher information rate FIR", "lower"),
        Quantity("fisher.mmse_rate", "rate of the minimum mean squared error", "lower"),
        Quantity(
            "fisher.fi_deviation fisher.fir_deviation_relative "
            "fisher.fir_deviation_scaled fisher.fir_deviation_per_dimension "
            "fisher.mmse_rate_deviation",
            "distance from the curves of pixel space",
            "lower",
        ),
        Quantity(
            "fisher.learned_fi fisher.learned_fir fisher.learned_mmse_rate",
            "the same of a trained diffusion model, where `metrics.fisher.learned` asks for it",
            "as above",
        ),
        Quantity(
            "fisher.*_unconditional",
            "without knowing the class: of the mixture of the classes, or of a trained model",
            "as above",
        ),
        Quantity(
            "fisher.*_gaussian",
            "of one Gaussian with the covariance of all latents: FI and FIR are lower bounds",
            "as above",
        ),
        Quantity(
            "fisher.*_empirical",
            "of the latents themselves as atoms, smoothed: FI is an upper bound. "
            "`fi_at_least` and `fi_at_most` in the options of its curve bound FI from both sides",
            "as above",
        ),
        Quantity(
            "fisher.*_raw", "deviation of latents as they are, without the common scale", "lower"
        ),
        Quantity(
            "fisher.*_zscored",
            "of channels z-scored one by one, as diffusion models see them",
            "as above",
        ),
        Quantity(
            "fisher.curve_*_v*",
            "the value at one noise variance v; of models also `fi_score` and "
            "`fi_held_out`, two other estimates of FI",
            "as above",
        ),
    ),
)
class FisherMetric(ClassMetricOptions):
    r"""Fisher information, its rate and the MMSE rate, and their deviations from pixel space.

    How much do noisy latents reveal about the clean ones, and how fast does that change with the
    noise?

    With $p_v$ the density of latents plus Gaussian noise of variance $v$ and score
    $s_v = \nabla \log p_v$ (Eq. 3 to 6 of the Fisher paper):

    $$ \mathrm{FI}(v) = \mathbb{E}\,\lVert s_v \rVert^2, \qquad
       \mathrm{FIR}(v) = -\frac{d\,\mathrm{FI}}{dv}
       = \mathbb{E}\,\lVert \nabla^2 \log p_v \rVert_F^2, $$

    $$ \mathrm{mmse}(v) = n v - v^2\,\mathrm{FI}(v), \qquad
       \frac{d\,\mathrm{mmse}}{dv} = n - 2 v\,\mathrm{FI}(v) + v^2\,\mathrm{FIR}(v) \ge 0. $$

    Reported numbers are means over $\log v$ of $v\,\mathrm{FI}/n$, $v^2\,\mathrm{FIR}/n$ and
    $\tfrac{1}{n}\,d\,\mathrm{mmse}/dv$, which do not grow with the number of dimensions $n$. The
    first lies in [0, 1]. The others are not negative, and at most 1 where the density is
    log-concave; that of two atoms has a larger FIR. For a Gaussian with covariance eigenvalues
    $\lambda_i$:

    $$ \mathrm{FI} = \sum_i \frac{1}{\lambda_i + v}, \qquad
       \mathrm{FIR} = \sum_i \frac{1}{(\lambda_i + v)^2}, \qquad
       \frac{d\,\mathrm{mmse}}{dv} = \sum_i \frac{\lambda_i^2}{(\lambda_i + v)^2}. $$

    **Estimators.** Without training, curves are estimated from distances between latents alone, so
    permutations, rotations and isometric embeddings change nothing; that is the paper's argument
    against spectra (its Appendix I). The Gaussian per class and the one Gaussian correct
    sample eigenvalues for the number of images (`data-limited` where they are too few), the mixture
    adds what not knowing the class costs, and the empirical measure assumes no shape
    (`loose` where its bounds of $v\,\mathrm{FI}/n$ are more than 0.1 apart).
    [Fisher estimators](fisher.md) has their errors against exact distributions.

    **Scale.** Latents are multiplied by one number: their own curves are in units of the mean
    variance of an entry. For deviations, pixels and latents have the same total variance and are
    read at the same $v$, in units of the mean variance of a pixel. So an isometry has no deviation
    of the MMSE rate. Per-channel z-scores, which diffusion training sees, do not keep isometries:
    learned curves and their deviations (`fisher.learned_*`) are of z-scored latents.

    **Deviations.** The text of Definition 3.2
    does not determine the deviation of FIR between a pixel space of dimension $D$ and a latent
    space of dimension $d$, so three readings are reported:

    $$ \text{relative: } \frac{\lvert F_D - F_d \rvert}{F_D}, \qquad
       \text{scaled: } \frac{v^2 \lvert F_D - F_d \rvert}{D}, \qquad
       \text{per dimension: } \frac{\lvert F_D/D - F_d/d \rvert}{F_D/D}. $$

    Of a trained model, one Jacobian-vector product per random direction estimates all three curves.
    A learned FI has three estimates; where they disagree, the value carries a flag.
    """

    split: Split = Field("val", description="images whose latents, and pixels, are fitted")
    variances: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
        min_length=2,
        description="noise variances sigma^2, increasing, relative to the mean variance",
    )
    blocks: int = Field(10, ge=2, description="blocks of images of the jackknife errors")
    samples: int = Field(128, ge=2, description="Monte-Carlo points of a mixture per variance")
    learned: LearnedFisherMetric | None = Field(
        None, description="how trained models are measured; none: they are not"
    )
    reference: str | None = Field(
        None,
        description="tokenizer that is the identity on pixels: its models are what the learned "
        "curves of the others deviate from",
    )
    reference_backbone: str | None = Field(
        None,
        description="backbone of those models, for every backbone of the others; none: the same",
    )

    @model_validator(mode="after")
    def _increasing(self) -> "FisherMetric":
        if any(a >= b for a, b in pairwise(self.variances)):
            raise ValueError(f"variances must increase, got {list(self.variances)}")
        return self

    @model_validator(mode="after")
    def _reference_of_learned(self) -> "FisherMetric":
        if self.reference is not None and self.learned is None:
            raise ValueError("reference compares learned curves, and learned is not given")
        if self.reference_backbone is not None and self.reference is None:
            raise ValueError("reference_backbone is that of the models of `reference`; give both")
        return self

    def fingerprinted(self) -> dict[str, Any]:
        """Return what the fits without training depend on."""
        return self.model_dump(mode="json", exclude={"learned", "reference", "reference_backbone"})

    def pixels(self) -> dict[str, Any]:
        """Return what the fit of the images themselves depends on."""
        return self.model_dump(
            mode="json", include={"split", "variances", "blocks", "samples", "smallest_class"}
        )

    def models(self) -> dict[str, Any]:
        """Return what the measurement of one trained model depends on, where it is asked for."""
        assert self.learned is not None
        options = self.learned.model_dump(mode="json", exclude={"seeds", "backbones"})
        return options | {"variances": list(self.variances)}


class _Metrics(Spec):
    """Metrics of latents, one key per declared group, and of generated images.

    What has no key is not measured.
    """

    generation: GenerationMetric | None = Field(
        None, description="of generated images; needed where there are backbones"
    )

    @property
    def groups(self) -> dict[str, MetricOptions]:
        """Options of the groups that are measured, by name, in the order of declaration."""
        found = {name: getattr(self, name) for name in METRIC_GROUPS}
        return {name: options for name, options in found.items() if options is not None}


if TYPE_CHECKING:

    class MetricsSpec(_Metrics):
        """The declared groups are its fields."""

        def __getattr__(self, name: str) -> Any: ...

else:
    MetricsSpec = create_model(
        "MetricsSpec", __base__=_Metrics, __doc__=_Metrics.__doc__, **METRIC_GROUPS.fields()
    )
