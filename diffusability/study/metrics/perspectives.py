"""The seven perspectives of the systematic study on latents: options and declaration, side by side.

Other metrics are declared in `metrics.py`, which also says how one is added.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from diffusability.study.core.names import EncoderName
from diffusability.study.metrics.metric_group import (
    ClassMetricOptions,
    MetricGroups,
    MetricOptions,
    Passes,
    Split,
)
from diffusability.study.metrics.quantity import Quantity

METRIC_GROUPS = MetricGroups()


@METRIC_GROUPS.add(
    "velocity",
    code="diffusability.metrics.velocity:measure_velocity",
    about="Velocity irreducible variance (VIV): how much of the velocity no network can predict.",
    reads=("mean", "labels"),
    generator="halves",
    title="velocity ambiguity",
    shows={"VIV": "velocity.viv"},
    rank="headline",
    version=3,
    quantities=(
        Quantity(
            "velocity.viv",
            "VIV; Kronecker covariance rescaled to the measured trace, the published estimator",
            "lower",
        ),
        Quantity(
            "velocity.viv_mle", "VIV of the plain maximum-likelihood Kronecker covariance", "lower"
        ),
        Quantity(
            "velocity.viv_dct",
            "VIV of a spatially stationary covariance: one channel covariance per frequency",
            "lower",
        ),
        Quantity(
            "velocity.viv_marginal",
            "VIV without knowing the class: that of the mixture of the classes",
            "lower",
        ),
        Quantity(
            "velocity.*_corrected",
            "the same, extrapolated linearly in 1/n to infinitely many images per class",
            "lower",
        ),
        Quantity("velocity.tau", "within-class variance per dimension", "lower"),
        Quantity(
            "velocity.anisotropy",
            "variance of the standard deviations along the principal axes",
            "higher",
        ),
        Quantity(
            "velocity.spatial_factor velocity.channel_factor",
            "factors of VIV that belong to positions and to channels",
            "lower",
        ),
        Quantity(
            "velocity.separability",
            "trace of the fitted covariance over the measured trace; 1 if the Kronecker "
            "model holds",
            "none",
        ),
        Quantity("velocity.curve_t*", "irreducible variance at one time t", "lower"),
    ),
)
class VelocityMetric(ClassMetricOptions):
    r"""Velocity irreducible variance (VIV).

    At the same point and time, different pairs of noise and latent imply different velocities. No
    network can predict this part of the velocity. **VIV**, the velocity irreducible variance, is
    its size.

    The objective of flow matching splits into a reducible and an irreducible part (Eq. 2 of the
    systematic study):

    $$ \mathbb{E}\,\lVert v - v_\theta \rVert^2 = \mathbb{E}\,\lVert v^* - v_\theta \rVert^2 +
       \mathbb{E}\,\lVert v - v^* \rVert^2, \qquad v^* = \mathbb{E}[v \mid x_t, t, y]. $$

    Each class is modelled as a Gaussian whose covariance is a Kronecker product of positions and
    channels, $\Sigma_k \approx \Sigma_s \otimes \Sigma_c$ (Eq. 3), fitted by the flip-flop
    algorithm. With eigenvalues $\lambda_i$ of $\Sigma_k$ (Eq. 4 and 5, as means over the $d$
    dimensions):

    $$ I_k(t) = \frac{1}{d} \sum_{i=1}^{d} \frac{\lambda_i}{(1-t)^2 + t^2 \lambda_i}, \qquad
       \mathrm{VIV}_k = \int_0^1 I_k(t)\,dt
       = \frac{\pi}{2}\,\frac{1}{d} \sum_{i=1}^{d} \sqrt{\lambda_i}. $$

    VIV is the mean of $\mathrm{VIV}_k$ over classes. With $\tau_k$ the mean of the $\lambda_i$ and
    $A_k$ the variance of the $\sqrt{\lambda_i}$ (Eq. 6):

    $$ \mathrm{VIV}_k = \frac{\pi}{2} \sqrt{\tau_k - A_k}, $$

    so VIV falls when classes are compact and when their spectrum is uneven. Isotropic latents of
    unit variance have $\mathrm{VIV} = \pi/2$. Standard errors come from random halves of each
    class.
    """

    unconditional_fallback: bool = Field(
        False,
        exclude_if=lambda chosen: not chosen,
        description="where a class has too few images, fit one Gaussian to all images; a flag says "
        "that VIV is then unconditional",
    )
    quick: bool = Field(
        False,
        exclude_if=lambda chosen: not chosen,
        description="split classes into random halves less often where that would take minutes: "
        "8 to 128 times in all; values are the same, their standard errors known less well",
    )


@METRIC_GROUPS.add(
    "semantics",
    code="diffusability.stages.latent_metrics:semantics",
    about="Latent neighbour consistency (LNC): do neighbours share their class?",
    title="semantic separability",
    shows={"LNC": "semantics.lnc5"},
    rank="headline",
    needs=("classes",),
    version=3,
    quantities=(
        Quantity(
            "semantics.lnc5",
            "share of the 5 nearest neighbours that have the same class, of z-scored latents",
            "higher",
        ),
        Quantity("semantics.lnc*", "the same of other numbers of neighbours: 1, 10, 20", "higher"),
        Quantity(
            "semantics.lnc*_corrected",
            "0 at chance, 1 at the largest value that the class sizes allow",
            "higher",
        ),
        Quantity("semantics.lnc*_l2", "Euclidean distance instead of cosine", "higher"),
        Quantity(
            "semantics.lnc*_area", "cells weighted by the share of foreground in them", "higher"
        ),
        Quantity("semantics.lnc*_raw", "of raw latents, which the reference code takes", "higher"),
        Quantity(
            "semantics.probe",
            "accuracy of multinomial logistic regression on latents averaged over the image, "
            "trained on the training set",
            "higher",
        ),
    ),
)
class SemanticsMetric(ClassMetricOptions):
    r"""Latent neighbour consistency (LNC).

    **LNC**, latent neighbour consistency: are the nearest neighbours of an image's latent of the
    same class?

    Let $u_i \in \mathbb{R}^C$ be the latent of image $i$ averaged over its foreground cells (over
    all cells without masks) and $N_K(i)$ its $K$ nearest other images by cosine:

    $$ \mathrm{LNC}_K = \frac{1}{N} \sum_{i=1}^{N} \frac{1}{K} \sum_{j \in N_K(i)} [y_i = y_j]. $$

    Source: systematic study, section on semantic separability. The paper does not say whether
    latents are z-scored: `lnc5` is of z-scored ones, `lnc5_raw` of raw ones. The linear probe
    learns from the training set and is tested on the validation set, as the paper's.
    """

    neighbours: tuple[PositiveInt, ...] = Field(
        (1, 5, 10, 20), min_length=1, description="numbers K of nearest neighbours"
    )
    probe: Literal["train", "folds"] = Field(
        "train",
        description="the linear probe learns from the train split and is tested on the measured "
        "images of val; or is cross-validated among the measured images, as it also is where none "
        "of them is held out",
    )
    probe_images: PositiveInt = Field(
        100_000, description="maximum number of training images that it learns from, evenly chosen"
    )


@METRIC_GROUPS.add(
    "spatial",
    code="diffusability.stages.latent_metrics:spatial",
    about="Spatial structure (SRSS, LDS, CDS, RMSC): do nearby cells agree?",
    title="spatial structure",
    shows={"SRSS": "spatial.srss", "LDS": "spatial.lds", "CDS": "spatial.cds"},
    rank="headline",
    needs=("grid",),
    quantities=(
        Quantity(
            "spatial.srss",
            "similarity to foreground neighbours minus similarity to distant background; "
            "needs masks",
            "higher",
        ),
        Quantity(
            "spatial.lds", "similarity of adjacent cells minus that of distant cells", "higher"
        ),
        Quantity(
            "spatial.cds", "rate at which similarity falls with distance", "higher", unit="1/token"
        ),
        Quantity(
            "spatial.rmsc",
            "spread of the unit vectors around their mean: diversity, which the "
            "systematic study leaves out",
            "none",
        ),
        Quantity(
            "spatial.*_raw",
            "of raw latents, which iREPA takes; the names without `_raw` are of z-scored ones",
            "as above",
            unit="as above",
        ),
    ),
)
class SpatialMetric(MetricOptions):
    r"""Spatial structure: LDS, CDS, SRSS, RMSC.

    How does the similarity of two cells depend on their positions? Each cell is a vector of $C$
    numbers, scaled to length one; similarity is the cosine $G_{ab}$; distance $\delta(a, b)$ on the
    grid is Manhattan, in cells.

    $$ \mathrm{LDS} = \overline{G_{ab}}\big|_{\delta = 1} -
       \overline{G_{ab}}\big|_{\delta \ge r}, \qquad
       \mathrm{CDS} = -\,\mathrm{slope}_{\delta}\; \overline{G_{ab}}\big|_{\delta(a,b) = \delta}, $$

    $$ \mathrm{SRSS} = \mathrm{mean}_{a \in \mathrm{fg}} \Big(
       \overline{G_{ab}}\big|_{b \in \mathrm{fg},\,\delta = 1}
       - \overline{G_{ab}}\big|_{b \in \mathrm{bg},\,\delta \ge r} \Big), \qquad
       \mathrm{RMSC} = \sqrt{\mathrm{mean}_a \lVert u_a - \bar u \rVert^2}. $$

    On a grid of 16 x 16 cells $r = 6$. A cell is foreground if any of its pixels is, and background
    if all of its pixels are: pixels that the masks leave undecided (1000 in ImageNet-S) are
    neither. Source: iREPA (arXiv 2512.10794), which takes raw latents (`_raw`).
    """


@METRIC_GROUPS.add(
    "smoothness",
    code="diffusability.metrics.smoothness:measure_smoothness",
    about="Spectral energy concentration (SEC): how much of the energy is high-frequency?",
    reads=("mean",),
    title="spectral smoothness",
    shows={"SEC": "smoothness.sec25"},
    rank="headline",
    needs=("grid",),
    quantities=(
        Quantity(
            "smoothness.sec25", "share of energy above a quarter of the highest frequency", "lower"
        ),
        Quantity("smoothness.sec50", "share above half of it", "lower"),
        Quantity(
            "smoothness.local_correlation",
            "mean correlation of the cells in windows of 2 x 2",
            "higher",
        ),
        Quantity(
            "smoothness.radial_slope", "slope of log power against log radial frequency", "none"
        ),
        Quantity(
            "smoothness.effective_rank smoothness.effective_rank_raw",
            "effective number of channels, with and without the z-score",
            "none",
        ),
    ),
)
class SmoothnessMetric(MetricOptions):
    r"""Spectral energy concentration (SEC) and its relatives.

    **SEC**: how much of a latent's energy has a high spatial frequency?

    With $E_{uv}$ the mean squared coefficient of the orthonormal two-dimensional cosine transform,
    over images and channels (Eq. 7 to 9 of the systematic study):

    $$ \mathrm{SEC}_\rho = \frac{\sum_{u + v > \tau} E_{uv}}{\sum_{u,v} E_{uv}}, \qquad
       \tau = \rho\,\big((H-1) + (W-1)\big), \quad \rho \in \{0.25,\ 0.5\}. $$

    With eigenvalues $l_i$ of the channel covariance the effective rank (participation ratio) is
    $(\sum l_i)^2 / \sum l_i^2$. Sources of the others: Spectrum Matching (arXiv 2603.14645) for the
    slope, SSVAE (arXiv 2512.05394) for local correlation and rank.
    """


@METRIC_GROUPS.add(
    "continuity",
    code="diffusability.stages.image_metrics:continuity",
    about="iFID: are images decoded between neighbouring latents still real?",
    title="manifold continuity",
    shows={"iFD": "continuity.if*"},
    rank="proxy",
    outputs=("neighbours.safetensors",),
    version=3,
    gpu=True,
    needs=("images", "network", "decoder"),
    quantities=(
        Quantity(
            "continuity.ifid continuity.ifd_*",
            "Fréchet distance between decoded interpolations and real images; the name "
            "ends with the extractor",
            "lower",
            unit="feature^2",
        ),
    ),
)
class ContinuityMetric(MetricOptions):
    r"""iFID: Fréchet distance of images decoded between neighbouring latents.

    **iFID**: do images between neighbouring latents still look real?

    Each latent $z$ is interpolated with a near neighbour $z'$ from the pool, half way
    ($\alpha = 0.5$), and decoded. By default the neighbour is drawn from the ten nearest by cosine
    and the path is spherical, both in raw latents, as in the source's code; the source's text takes
    the nearest neighbour and a straight line. All are options. Source: arXiv 2603.05630.

    Cosine and arc are about the origin, so the mean and the scale of each channel matter:
    `normalise: true` searches and interpolates among z-scores instead.
    """

    split: Split = Field("val", description="images whose latents are interpolated from")
    pool: Split = Field("train", description="images whose latents are neighbours")
    extractor: EncoderName
    neighbours: PositiveInt = Field(10, description="K nearest from which one is drawn")
    distance: Literal["cosine", "l2"] = Field("cosine", description="between latents")
    same_class: bool = Field(False, description="neighbours of the same class only")
    choice: Literal["weighted", "nearest"] = Field(
        "weighted", description="draw a neighbour, closer ones more often; or take the nearest"
    )
    interpolation: Literal["slerp", "linear"] = Field(
        "slerp", description="path between the latents: spherical or straight"
    )
    alpha: float = Field(0.5, ge=0, le=1, description="0: the latent, 1: its neighbour")
    normalise: bool = Field(
        False, description="search and interpolate among z-scored latents instead of raw ones"
    )

    @property
    def encoders(self) -> dict[str, str]:
        """The feature extractor of the distances."""
        return {"extractor": self.extractor}

    def passes(self) -> Passes:
        """Every latent is compared with the pool, one is decoded, two images are judged."""
        return Passes(decoder=1, extractor=2, pool=self.pool)


@METRIC_GROUPS.add(
    "uniformity",
    code="diffusability.stages.latent_metrics:uniformity",
    about="How evenly do the cells of latents spread?",
    title="distribution uniformity",
    shows={
        "entropy": "uniformity.normalised_entropy",
        "density CV": "uniformity.density_cv",
        "Gini": "uniformity.gini",
    },
    rank="proxy",
    version=3,
    quantities=(
        Quantity(
            "uniformity.normalised_entropy",
            "entropy of the normalised densities over its maximum",
            "higher",
        ),
        Quantity(
            "uniformity.density_cv", "standard deviation of the densities over their mean", "lower"
        ),
        Quantity("uniformity.gini", "Gini coefficient of the densities", "lower"),
        Quantity("uniformity.*_spread", "standard deviation of one repeat", "none"),
    ),
)
class UniformityMetric(MetricOptions):
    r"""Density of single cells of latents in a t-SNE embedding (VA-VAE's protocol).

    How evenly do the latents fill their space?

    From each of $n$ images one random cell is taken; t-SNE maps the cells to a plane; a Gaussian
    kernel density $f_i$ is evaluated at every point. With $p_i = f_i / \sum_j f_j$ and $f_{(i)}$ in
    ascending order:

    $$ \text{entropy} = -\frac{\sum_i p_i \log p_i}{\log n}, \qquad
       \text{CV} = \frac{\mathrm{std}(f)}{\mathrm{mean}(f)}, \qquad
       \text{Gini} = \frac{\sum_i (2i - n - 1) f_{(i)}}{n \sum_i f_i}. $$

    Values are means over repeats with new cells and a new t-SNE. As in VA-VAE's protocol
    (arXiv 2501.01423) cells are drawn from their posteriors, and of images that are mirrored with
    probability one half, where `encoding.flip` has encoded mirrored ones.
    """

    points: PositiveInt = Field(10_000, description="images per repeat, one pixel of each")
    repeats: int = Field(10, ge=2, description="embeddings that the result is averaged over")
    perplexity: float = Field(30.0, gt=1, description="of t-SNE")
    iterations: int = Field(1000, ge=250, description="of t-SNE")
    posterior: Literal["draw", "mean"] = Field(
        "draw", description="latents are draws of the posteriors, or their means"
    )
    flip: bool = Field(
        True, description="mirror half of the images, where mirrored latents are there"
    )


@METRIC_GROUPS.add(
    "equivariance",
    code="diffusability.stages.image_metrics:equivariance",
    about="Does encoding commute with rotation, scaling and flipping?",
    title="affine equivariance",
    shows={
        "scale error": "equivariance.scale_error",
        "rotate error": "equivariance.rotate_error",
    },
    rank="proxy",  # the study leaves it out of later analyses by its results; here it stays in
    gpu=True,
    needs=("grid", "images", "network"),
    quantities=(
        Quantity(
            "equivariance.<transform>_error",
            "relative squared error; 0 exact, 2 unrelated",
            "lower",
        ),
        Quantity(
            "equivariance.<transform>_cosine",
            "one minus the mean cosine of cells; 0 exact, 1 unrelated",
            "lower",
        ),
    ),
)
class EquivarianceMetric(MetricOptions):
    r"""Difference between encoding a transformed image and transforming its latent.

    Is the latent of a transformed image the transformed latent?

    `<transform>` is `rotate90`, `rotate180`, `rotate270`, `flip`, `scale0.5`, `scale0.75`, or the
    mean of a family, `rotate` or `scale`. With $m$ the mean per channel:

    $$ \text{error} = \frac{\sum_x \lVert T\,\mathrm{Enc}(x) - \mathrm{Enc}(T x) \rVert^2}
       {\sum_x \lVert \mathrm{Enc}(T x) - m \rVert^2}. $$

    The systematic study prints no formula; these two are this project's choice, with the transforms
    of EQ-VAE (arXiv 2502.09509).
    """

    rotations: tuple[Literal[90, 180, 270], ...] = Field(
        (90, 180, 270), description="degrees counter-clockwise"
    )
    scales: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.75), description="factors that images and latents are shrunk by"
    )
    flip: bool = Field(True, description="flip horizontally too")

    def passes(self) -> Passes:
        """Each image is encoded as it is and transformed."""
        return Passes(encoder=1 + len(self.rotations) + len(self.scales) + self.flip)
