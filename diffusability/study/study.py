"""The study as a whole: everything that is declared, and the selection that is run."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeInt

from diffusability.study.core.names import EncoderName, Name
from diffusability.study.core.spec import Spec, is_none
from diffusability.study.entries.backbone import BackboneSpec
from diffusability.study.entries.dataset import DATASETS, Dataset
from diffusability.study.entries.encoder import ENCODERS, EncoderEntry
from diffusability.study.entries.sampling import SamplingSpec
from diffusability.study.entries.tokenizer import TOKENIZER_SOURCES, EncodingSpec, SourcedTokenizer
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.study.metrics.generation import Control, GenerationMetric
from diffusability.study.metrics.groups import METRIC_GROUPS, MetricsSpec
from diffusability.study.metrics.metric_group import LACKING, MetricOptions, Needed

SeedList = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = Literal[tuple(METRIC_GROUPS)]


class Repeat(Spec):
    """Further seeds of one tokenizer, from which the noise floor is read."""

    tokenizer_seeds: tuple[NonNegativeInt, ...] = Field((), description="retrained tokenizers")
    seeds: tuple[NonNegativeInt, ...] = Field((), description="retrained diffusion models")


class Selection(Spec):
    """What of the declared study is run; it narrows, it never changes a fingerprint."""

    dataset: Name = Field(description="the entry of `datasets` that is used")
    tokenizers: Literal["all"] | Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        "all", description="entries of `tokenizers` that are run"
    )
    backbones: Literal["all"] | Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        "all", description="entries of `backbones` that are run"
    )
    metrics: Literal["all"] | Annotated[tuple[MetricName, ...], Field(min_length=1)] = Field(
        "all", description="metric groups that are measured on the latents"
    )
    without: dict[Name, tuple[MetricName, ...]] = Field(
        {},
        description="metric groups that are not measured on the latents of single tokenizers, by "
        "tokenizer",
    )
    tokenizer_seeds: SeedList = Field((0,), description="seeds of the tokenizers")
    seeds: SeedList = Field((0,), description="seeds of the diffusion models")
    repeats: dict[Name, Repeat] = Field({}, description="further seeds, by tokenizer")


class EqualReconstruction(Spec):
    """Which tokenizers of a family reconstruct equally well; the others are left out and named."""

    psnr_spread: float = Field(
        1.0, gt=0, description="dB; PSNR of the tokenizers of a family that are compared"
    )
    rfd_share: float = Field(
        1 / 3, gt=0, description="largest rFD, as a share of the smallest gFD of the family"
    )


class DeclaredTests(Spec):
    """Correlations that a study is run to test, written down before the run.

    Each metric is tested in the direction that its declaration calls better, with every backbone
    and in every family named here, at the last training step and the smallest guidance scale.
    """

    metrics: tuple[str, ...] = Field(
        min_length=1, description="metrics of the latents, such as velocity.viv"
    )
    target: str = Field(description="what they shall predict, such as generation.fd_judge")
    backbones: tuple[Name, ...] = Field(min_length=1, description="entries of `backbones`")
    families: tuple[str, ...] = Field(min_length=1, description="such as conv-f4d8")


class AnalysisSpec(Spec):
    """How the tables are made from the measurements."""

    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of the intervals")
    equal_reconstruction: EqualReconstruction | None = Field(
        None,
        exclude_if=is_none,
        description="compare only tokenizers of like reconstruction ({}: with the defaults); "
        "none: all",
    )
    declared: DeclaredTests | None = Field(
        None,
        exclude_if=is_none,
        description="correlations to test, decided before the run; none: no table of tests",
    )


DEFAULTS = AnalysisSpec()


class Study(Spec):
    """A resolved study: names mapped to complete specifications, plus a selection."""

    name: Name = Field(description="directory of its tables and figures under results/")
    report: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]+\.html$",
        description="file under results/; by default report-<name>.html",
    )
    datasets: dict[Name, Annotated[Dataset, DATASETS]] = Field(
        min_length=1, description="images that a study can use, by name"
    )
    encoders: dict[EncoderName, Annotated[EncoderEntry, ENCODERS]] = Field(
        {}, description="frozen networks, by name"
    )
    tokenizers: dict[Name, TokenizerSpec | Annotated[SourcedTokenizer, TOKENIZER_SOURCES]] = Field(
        min_length=1, description="image tokenizers, by name, each merged into its `base`"
    )
    encoding: EncodingSpec = EncodingSpec()
    backbones: dict[Name, BackboneSpec] = Field(
        {}, description="diffusion models, by name; none: latents alone are measured"
    )
    sampling: SamplingSpec = SamplingSpec()
    metrics: MetricsSpec
    analysis: AnalysisSpec = AnalysisSpec()
    gpu_memory: float = Field(
        80.0,
        gt=0,
        description="GB of one GPU, which every training has to fit into; execution, in no "
        "fingerprint",
    )
    select: Selection

    @property
    def dataset(self) -> Dataset:
        """The selected dataset."""
        return self.datasets[self.select.dataset]

    @property
    def selected_tokenizers(self) -> tuple[str, ...]:
        """Names of the tokenizers that are run, in the order of the study file."""
        chosen = self.select.tokenizers
        return tuple(n for n in self.tokenizers if chosen == "all" or n in chosen)

    @property
    def made_tokenizers(self) -> tuple[str, ...]:
        """Names of the selected tokenizers and of those that they are derived from."""
        chosen = self.selected_tokenizers
        made = {*chosen, *(self.tokenizers[name].trained for name in chosen)}
        return tuple(name for name in self.tokenizers if name in made)

    def aligned_with(self, tokenizer: str) -> str:
        """Return the encoder that its latents were aligned with in training; empty without one.

        That of a derived latent space is the one of the tokenizer whose weights it takes.
        """
        entry = self.tokenizers[tokenizer]
        return self.tokenizers[entry.trained or tokenizer].aligned_with

    @property
    def selected_backbones(self) -> tuple[str, ...]:
        """Names of the backbones that are run, in the order of the study file."""
        chosen = self.select.backbones
        return tuple(n for n in self.backbones if chosen == "all" or n in chosen)

    @property
    def has_models(self) -> bool:
        """Whether the selection has diffusion models; without, only latents are measured."""
        return bool(self.selected_backbones)

    @property
    def generation(self) -> GenerationMetric:
        """How generated images are judged; every study with diffusion models says it."""
        assert self.metrics.generation is not None
        return self.metrics.generation

    @property
    def controls(self) -> tuple[Control, ...]:
        """Sample sources without a diffusion model that are measured like one."""
        generation = self.metrics.generation
        return () if generation is None else generation.controls

    @property
    def generates(self) -> bool:
        """Whether images are generated from latents: by diffusion models, or as controls."""
        return self.has_models or bool(self.controls)

    @property
    def fisher_reference(self) -> tuple[str, str | None] | None:
        """The tokenizer whose learned Fisher curves the others deviate from, if any.

        With the backbone of its models; None: that of the others.
        """
        fisher = self.metrics.fisher
        if fisher is None or fisher.reference is None:
            return None
        return fisher.reference, fisher.reference_backbone

    @property
    def used_encoders(self) -> tuple[str, ...]:
        """Names of the encoders that the selection needs, each once."""
        chosen = self.selected_metrics.values()
        names = [n for t in self.made_tokenizers for n in self.tokenizers[t].encoders.values()]
        names += [name for options in chosen for name in options.encoders.values()]
        generation = self.metrics.generation  # none: another problem of the file
        if generation is not None and self.generates:
            names += [generation.extractor, *(generation.fdr6 or ())]
        return tuple(dict.fromkeys(names))

    @property
    def selected_metrics(self) -> dict[str, MetricOptions]:
        """Options of the metric groups that are measured on the latents, by name."""
        chosen = self.select.metrics
        groups = self.metrics.groups
        return {n: options for n, options in groups.items() if chosen == "all" or n in chosen}

    def lacking(self, tokenizer: str) -> tuple[Needed, ...]:
        """Return what the dataset or a tokenizer cannot give, so that some metrics are left out."""
        entry, data = self.tokenizers[tokenizer], self.dataset
        there: dict[Needed, bool] = {
            "classes": data.num_classes > 1,
            "grid": getattr(entry, "layout", "grid") == "grid",
            "images": data.has_images,
            "network": entry.encodes,
            "decoder": entry.decodes or not entry.encodes,  # else "network" says it
        }
        return tuple(need for need, given in there.items() if not given)

    def left_out(self, tokenizer: str) -> dict[str, str]:
        """Return the selected metric groups that are not measured of a tokenizer, with reasons."""
        without = self.select.without.get(tokenizer, ())
        reasons = {
            name: self.unmeasurable(tokenizer, name)
            or "`select.without` leaves it out" * (name in without)
            for name in self.selected_metrics
        }
        return {name: reason for name, reason in reasons.items() if reason}

    def unmeasurable(self, tokenizer: str, group: str) -> str:
        """Return why a metric group cannot be measured of a tokenizer; empty: it can."""
        lacking = self.lacking(tokenizer)
        return "; ".join(LACKING[need] for need in METRIC_GROUPS[group].needs if need in lacking)

    @property
    def first_seeds(self) -> tuple[int, int]:
        """The (tokenizer seed, diffusion seed) pair that every tokenizer is trained with."""
        return self.select.tokenizer_seeds[0], self.select.seeds[0]

    def seeds_of(self, tokenizer: str) -> tuple[tuple[int, int], ...]:
        """Return the (tokenizer seed, diffusion seed) pairs of one tokenizer, without repeats.

        Selected seeds are crossed; the further seeds of `select.repeats` vary one seed at a time
        around the first selected pair, so that each source of noise can be read on its own.
        """
        pairs = [(t, s) for t in self.select.tokenizer_seeds for s in self.select.seeds]
        extra = self.select.repeats.get(tokenizer, Repeat())
        first_tokenizer, first = self.first_seeds
        pairs += [(first_tokenizer, s) for s in extra.seeds]
        pairs += [(t, first) for t in extra.tokenizer_seeds]
        return tuple(dict.fromkeys(pairs))
