"""The toy study of Fisher information as typed data, and the artifacts that it consists of."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from diffusability.errors import StudyError
from diffusability.study.core.fingerprint import fingerprint
from diffusability.study.core.problems import nearest
from diffusability.study.core.spec import Spec, TrainSpec
from diffusability.study.planning.plan import Artifact, Artifacts
from diffusability.study.reading.yaml_file import read_yaml

FISHER_TOY = "fisher_toy"  # name of the study
STAGE = "fisher_toy"
EXACT = "exact"  # stands where a learned curve names its network
DIFFUSION_STEPS = 50  # of tiny-diffusion
_DRAWN = "diffusability.figures.fisher_toy"
TOY_FIGURES = {  # each with the function that draws it
    "activations": f"{_DRAWN}:draw_activations",
    "deviation_by_parameter": f"{_DRAWN}:draw_deviation_by_parameter",
    "deviation_by_noise": f"{_DRAWN}:draw_deviation_by_noise",
    "deviation_parts": f"{_DRAWN}:draw_deviation_parts",
}
INTRINSIC_DIM = 2  # of all data of the toy study
Function = Literal["relu", "gelu", "sigmoid", "tanh", "leaky"]
Variance = Annotated[float, Field(gt=0)]


def step_variances() -> list[float]:
    """Return the 50 noise variances (1 - abar) / abar of tiny-diffusion's linear schedule."""
    found, alpha_bar = [], 1.0
    for step in range(DIFFUSION_STEPS):
        alpha_bar *= 1 - (1e-4 + step * (0.02 - 1e-4) / (DIFFUSION_STEPS - 1))
        found.append((1 - alpha_bar) / alpha_bar)
    return found


class ToyDistribution(Spec):
    """One two-dimensional normal distribution, as it is or encoded.

    `normal`: N(0, I_2) in `dim` dimensions, times sqrt(1 + eps); `activation`: each coordinate
    through `function`; `cylinder`: the first coordinate wrapped round a circle.
    """

    kind: Literal["normal", "activation", "cylinder"]
    dim: PositiveInt = Field(2, description="ambient dimension")
    eps: float = Field(0.0, ge=0, description="variance above 1")
    function: Function | None = None
    slope: float | None = Field(None, description="of the negative side of a leaky ReLU")
    inverse_radius: PositiveFloat | None = Field(None, description="1 / R of the cylinder")


class ToyNetwork(Spec):
    """A network of the toy study: a residual MLP as noise predictor or as EDM denoiser."""

    arch: Literal["tiny", "edm"]
    inputs: Literal["identity", "sinusoidal"] = Field(description="how coordinates are fed in")
    width: PositiveInt = Field(128, description="hidden units")
    blocks: PositiveInt = Field(3, description="residual layers")
    points: PositiveInt = Field(description="training data")
    train: TrainSpec


class ToyCurve(Spec):
    """What one curve is made of; a curve without a network is exact."""

    distribution: ToyDistribution
    variances: tuple[Variance, ...]
    network: ToyNetwork | None = None
    samples: PositiveInt | None = None


class Activations(Spec):
    """Experiment 4.1: activation functions as encoders."""

    functions: tuple[Literal["relu", "gelu", "sigmoid", "tanh"], ...]
    slopes: tuple[float, ...]
    networks: tuple[str, ...]


class Scales(Spec):
    """Experiment 4.2(a): FIR deviation against eps."""

    eps: tuple[PositiveFloat, ...]
    learned: tuple[PositiveFloat, ...]
    networks: tuple[str, ...]


class Dimensions(Spec):
    """Experiment 4.2(b): FIR deviation against the latent dimension."""

    ambient: PositiveInt
    dims: tuple[Annotated[int, Field(ge=INTRINSIC_DIM)], ...]
    learned: tuple[PositiveInt, ...]
    networks: tuple[str, ...]


class Cylinders(Spec):
    """Experiment 4.2(c): FIR deviation against 1/R."""

    inverse_radii: tuple[PositiveFloat, ...]
    learned: tuple[PositiveFloat, ...]
    networks: tuple[str, ...]


class FisherToy(Spec):
    """The toy study."""

    name: Literal["fisher_toy"]
    seeds: tuple[NonNegativeInt, ...]
    steps: tuple[Annotated[int, Field(ge=0, lt=DIFFUSION_STEPS)], ...]
    variances: tuple[Variance, ...]
    samples: Annotated[int, Field(ge=2)]
    networks: Mapping[str, ToyNetwork]
    activation: Activations
    scale: Scales
    dimension: Dimensions
    cylinder: Cylinders


@dataclass(frozen=True)
class Panel:
    """One latent space in one experiment.

    Attributes:
        experiment: "activation", "scale", "dimension" or "cylinder".
        space: name of the latent space.
        pixel: name of the space that it is compared with.
        parameter: what the experiment varies: slope, eps, d or 1/R; None for other functions.
        networks: learned beside the exact curve.
    """

    experiment: str
    space: str
    pixel: str
    parameter: float | None
    networks: tuple[str, ...]


class FisherToyPlan(Artifacts):
    """All curves of the toy study, and which panel each belongs to."""

    def __init__(self, study: FisherToy) -> None:
        """Lay out the artifacts; nothing is read from disk."""
        super().__init__(study.name)
        self.study = study
        self.panels = list(_panels(study))
        for panel in self.panels:
            for space in (panel.pixel, panel.space):
                self.curve(space, EXACT, 0)
                for network in panel.networks:
                    for seed in study.seeds:
                        self.curve(space, network, seed)

    @property
    def fingerprint(self) -> str:
        """Name of the study's table: of all curves, and of which is compared with which."""
        panels = {"panels": [asdict(panel) for panel in self.panels]}
        return fingerprint("tables", 1, panels, 0, {a.path: a.fingerprint for a in self})

    def curve(self, space: str, network: str, seed: int) -> Artifact:
        """Return the curve of a space and a network (or "exact", which has no seed)."""
        seed = 0 if network == EXACT else seed
        labels = {"space": space, "network": network, "seed": str(seed)}
        return self._add(STAGE, labels, _curve(self.study, space, network).canonical(), seed, {})


@cache
def toy_plan(path: str) -> FisherToyPlan:
    """Return the plan of a toy study; the file is read at the first call.

    Raises:
        StudyError: see ``load_fisher_toy``.
    """
    return FisherToyPlan(load_fisher_toy(path))


def load_fisher_toy(path: str | Path) -> FisherToy:
    """Return the toy study of a file.

    Raises:
        StudyError: with every problem found, by key path and reason.
    """
    try:
        study = FisherToy.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise StudyError("\n".join(f"{path}: {line}" for line in lines)) from None
    for name in ("activation", "scale", "dimension", "cylinder"):
        for network in getattr(study, name).networks:
            if network not in study.networks:
                hint = nearest(network, study.networks)
                raise StudyError(f"{path}: {name}.networks: no network `{network}` ({hint})")
    for key, values, learned in (
        ("activation.slopes", study.activation.slopes, ()),
        ("scale.eps", study.scale.eps, study.scale.learned),
        ("dimension.dims", study.dimension.dims, study.dimension.learned),
        ("cylinder.inverse_radii", study.cylinder.inverse_radii, study.cylinder.learned),
    ):
        if long := [value for value in values if float(f"{value:g}") != value]:
            raise StudyError(f"{path}: {key}: {long[0]} has more than six digits; round it")
        if unknown := sorted(set(learned) - set(values)):
            group = key.partition(".")[0]
            raise StudyError(f"{path}: {group}.learned: {unknown[0]} is not among {key}")
    return study


def _panels(study: FisherToy) -> Iterator[Panel]:
    functions, scale = study.activation, study.scale
    for function in functions.functions:
        yield Panel("activation", function, "plane-2", None, functions.networks)
    for slope in functions.slopes:
        yield Panel("activation", f"leaky-{slope:g}", "plane-2", slope, functions.networks)
    for eps in scale.eps:
        networks = scale.networks if eps in scale.learned else ()
        yield Panel("scale", f"scale-{eps:g}", "plane-2", eps, networks)
    dims = study.dimension
    for d in dims.dims:
        networks = dims.networks if d in dims.learned else ()
        yield Panel("dimension", f"plane-{d}", f"plane-{dims.ambient}", d, networks)
    cylinder = study.cylinder
    for inverse in cylinder.inverse_radii:
        networks = cylinder.networks if inverse in cylinder.learned else ()
        yield Panel("cylinder", f"cylinder-{inverse:g}", "plane-3", inverse, networks)


def _distribution(space: str) -> ToyDistribution:
    """Return the distribution of a name that `_panels` gave."""
    kind, _, number = space.partition("-")
    values: dict[str, Any] = {
        "plane": lambda: {"kind": "normal", "dim": int(number)},
        "scale": lambda: {"kind": "normal", "eps": float(number)},
        "leaky": lambda: {"kind": "activation", "function": "leaky", "slope": float(number)},
        "cylinder": lambda: {"kind": "cylinder", "dim": 3, "inverse_radius": float(number)},
    }.get(kind, lambda: {"kind": "activation", "function": kind})()
    return ToyDistribution(**values)


def _curve(study: FisherToy, space: str, network: str) -> ToyCurve:
    schedule = step_variances()
    known = tuple(schedule[step] for step in sorted(study.steps))
    everywhere = tuple(sorted({*known, *study.variances}))
    if network == EXACT:
        return ToyCurve(distribution=_distribution(space), variances=everywhere)
    entry = study.networks[network]
    return ToyCurve(
        distribution=_distribution(space),
        variances=known if entry.arch == "tiny" else everywhere,
        network=entry,
        samples=study.samples,
    )
