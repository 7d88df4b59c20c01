"""The artifacts of a study: what each is, what it is made from, and its path."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, assert_never

from diffusability.errors import StudyError
from diffusability.study.core.fingerprint import canonical_json, fingerprint
from diffusability.study.core.names import fdr6_role
from diffusability.study.core.problems import nearest
from diffusability.study.core.spec import Spec
from diffusability.study.metrics.generation import (
    Fdr6Reference,
    GenerationMetric,
    GenerationReference,
)
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.metrics.metric_group import MetricOptions
from diffusability.study.planning.stages import (
    CARD,
    RESULTS,
    STAGES,
    control_label,
    path_template,
    snapshot_label,
)
from diffusability.study.planning.tables import TABLES
from diffusability.study.study import Study


@dataclass(frozen=True, eq=False)
class Artifact:
    """One result on disk, named by what made it.

    Attributes:
        stage: kind of the artifact, a key of STAGES.
        labels: names that tell it from others of its stage; they are its wildcards.
        spec: resolved options of the stage, as plain JSON values.
        seed: seed of the stage's randomness.
        upstream: the artifacts it is made from, by role.
        local: paths and execution options of this machine; not part of the fingerprint.
    """

    stage: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    seed: int
    upstream: Mapping[str, "Artifact"]
    local: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of stage, version, spec, seed and the fingerprints upstream."""
        roles = {role: artifact.fingerprint for role, artifact in self.upstream.items()}
        return fingerprint(self.stage, STAGES[self.stage].version, self.spec, self.seed, roles)

    @cached_property
    def path(self) -> str:
        """Directory of the artifact, relative to the working directory."""
        return path_template(self.stage).format(**self.labels, fingerprint=self.fingerprint)

    @property
    def card(self) -> str:
        """Path of the provenance card, written last: an artifact with a card is complete."""
        return f"{self.path}/{CARD}"

    @property
    def name(self) -> str:
        """The labels as one readable name, for example `conv-base/s0/sit-xs/s0`."""
        return self.path.removeprefix(f"{RESULTS}/{self.stage}/").rpartition("/")[0]

    def job(self) -> str:
        """Return everything a script needs to make the artifact, as canonical JSON."""
        upstream = {role: artifact._as_input() for role, artifact in self.upstream.items()}
        return canonical_json(
            {
                "stage": self.stage,
                "version": STAGES[self.stage].version,
                "name": self.name,
                "spec": self.spec,
                "local": self.local,
                "seed": self.seed,
                "upstream": upstream,
                "path": self.path,
            }
        )

    def _as_input(self) -> dict[str, Any]:
        """Return what the jobs that read the artifact have to know of it."""
        known: dict[str, Any] = {
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "path": self.path,
        }
        from_files = self.stage == "dataset" or "source" in self.spec
        if from_files and self.local:  # they may have moved since it was made
            known["local"] = self.local
        return known


class Artifacts:
    """Artifacts by path, upstream before downstream."""

    def __init__(self, name: str) -> None:
        """Start empty; `name` is that of the study, for messages."""
        self._name = name
        self._by_path: dict[str, Artifact] = {}

    def __iter__(self) -> Iterator[Artifact]:
        """Iterate in an order in which everything follows what it is made from."""
        return iter(self._by_path.values())

    def __len__(self) -> int:
        """Return the number of artifacts."""
        return len(self._by_path)

    def of_stage(self, *stages: str) -> list[Artifact]:
        """Return the artifacts of one or more stages, in planning order."""
        return [artifact for artifact in self if artifact.stage in stages]

    def find(self, stage: str, labels: Mapping[str, str]) -> Artifact:
        """Return the artifact that a rule's wildcards name.

        Raises:
            StudyError: the study has no such artifact; the message names the nearest.
        """
        names = {key: labels[key] for key in (*STAGES[stage].labels, "fingerprint")}
        path = path_template(stage).format(**names)
        if path not in self._by_path:
            hint = nearest(path, [a.path for a in self.of_stage(stage)])
            raise StudyError(f"{path}: not an artifact of study `{self._name}` ({hint})")
        return self._by_path[path]

    def _add(
        self,
        stage: str,
        labels: Mapping[str, str],
        spec: Mapping[str, Any],
        seed: int,
        upstream: Mapping[str, Artifact],
        local: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Add an artifact, or return the one that is there under its path."""
        artifact = Artifact(stage, labels, spec, seed, upstream, local or {})
        return self._by_path.setdefault(artifact.path, artifact)


class Plan(Artifacts):
    """All artifacts of a study's selection, upstream before downstream."""

    def __init__(self, study: Study) -> None:
        """Lay out the artifacts; nothing is read from disk."""
        super().__init__(study.name)
        self.study = study
        self._encoders: dict[str, Artifact] = {}
        self._lay_out()

    @property
    def measured(self) -> list[Artifact]:
        """The artifacts that hold measurements, which the tables are made from."""
        return [a for a in self if "measurements.json" in STAGES[a.stage].outputs]

    @property
    def fingerprint(self) -> str:
        """Name of the study's tables: of all measurements and of how they are analysed."""
        roles = {artifact.path: artifact.fingerprint for artifact in self.measured}
        spec = {**self.study.analysis.canonical(), "dataset": self.study.select.dataset}
        if self.study.fisher_reference is not None:
            spec["fisher_reference"], backbone = self.study.fisher_reference
            if backbone is not None:
                spec["fisher_reference_backbone"] = backbone
        names = self.study.selected_tokenizers  # encoders enter artifacts by their content alone
        spec["encoders"] = {name: self.study.aligned_with(name) for name in names}
        # an earlier version's tables, with other columns, are made again
        spec["columns"] = {name: list(table.columns) for name, table in TABLES.items()}
        return fingerprint("tables", 2, spec, 0, roles)

    def _lay_out(self) -> None:
        select = self.study.select
        data = self.study.dataset
        labels = {"dataset": select.dataset}
        self._dataset = self._add("dataset", labels, data.canonical(), 0, {}, data.local())
        for tokenizer in self.study.selected_tokenizers:
            for tokenizer_seed, seed in self.study.seeds_of(tokenizer):
                self._lay_out_chain(tokenizer, tokenizer_seed, seed)

    def _encoder(self, name: str) -> Artifact:
        if name not in self._encoders:
            self._encoders[name] = self._new_encoder(name)
        return self._encoders[name]

    def _new_encoder(self, name: str) -> Artifact:
        encoder = self.study.encoders[name]
        spec = encoder.canonical()
        seed = spec.pop("seed", 0)
        upstream = {"dataset": self._dataset} if encoder.needs_images else {}
        return self._add("encoder", {"encoder": name}, spec, seed, upstream, encoder.local())

    def _lay_out_chain(self, name: str, tokenizer_seed: int, seed: int) -> None:
        """Add one tokenizer at one seed, and all that is made from it."""
        labels = {"tokenizer": name, "tokenizer_seed": str(tokenizer_seed)}
        tokenizer = self._tokenizer(name, tokenizer_seed)
        upstream = {"dataset": self._dataset, "tokenizer": tokenizer}
        latents = self._add("latents", labels, self.study.encoding.canonical(), 0, upstream)
        upstream = {**upstream, "latents": latents}
        left_out = self.study.left_out(name)
        for group, options in self.study.selected_metrics.items():
            if group not in left_out:
                self._measure(group, options, labels, upstream)
        for backbone in self.study.selected_backbones:
            self._lay_out_diffusion(backbone, seed, labels, upstream)
        for control in self.study.controls:
            self._lay_out_control(control, labels, upstream)

    def _tokenizer(self, name: str, tokenizer_seed: int) -> Artifact:
        """Add one tokenizer at one seed."""
        spec = self.study.tokenizers[name]
        labels = {"tokenizer": name, "tokenizer_seed": str(tokenizer_seed)}
        made_from = {role: self._encoder(name) for role, name in spec.encoders.items()}
        if spec.needs_images:
            made_from["dataset"] = self._dataset
        if spec.trained is not None:
            made_from["trained"] = self._tokenizer(spec.trained, tokenizer_seed)
        options = spec.fingerprinted()
        return self._add("tokenizer", labels, options, tokenizer_seed, made_from, spec.local())

    def _measure(
        self,
        group: str,
        options: MetricOptions,
        labels: Mapping[str, str],
        upstream: Mapping[str, Artifact],
    ) -> None:
        """Add the measurements of one metric group on one tokenizer's latents."""
        made_from = dict(upstream)
        made_from |= {role: self._encoder(name) for role, name in options.encoders.items()}
        for role in METRIC_GROUPS[group].upstream:
            match role:
                case "alignment":  # what the tokenizer was trained to agree with, if anything
                    if "encoder" in upstream["tokenizer"].upstream:
                        made_from[role] = upstream["tokenizer"].upstream["encoder"]
                case "pixels":
                    if self.study.dataset.has_images:
                        made_from[role] = self._pixel_fisher()
                case _:
                    assert_never(role)
        self._add(group, labels, options.fingerprinted(), 0, made_from)

    def _pixel_fisher(self) -> Artifact:
        """Return the fits of the images themselves, once for all tokenizers."""
        options = self.study.metrics.fisher.pixels()
        return self._add(
            "pixel_fisher", self._dataset.labels, options, 0, {"dataset": self._dataset}
        )

    def _measure_learned_fisher(
        self, diffusion: Artifact, upstream: Mapping[str, Artifact]
    ) -> None:
        """Add what one trained model says, where the study asks for it."""
        metric, labels = self.study.metrics.fisher, diffusion.labels
        if "fisher" not in self.study.selected_metrics or metric.learned is None:
            return
        if "fisher" in self.study.left_out(labels["tokenizer"]):
            return
        if metric.learned.backbones != "all" and labels["backbone"] not in metric.learned.backbones:
            return
        seeds = (int(labels["tokenizer_seed"]), int(labels["seed"]))
        if metric.learned.seeds == "first" and seeds != self.study.first_seeds:
            return
        upstream = {**upstream, "diffusion": diffusion}
        self._add("learned_fisher", labels, metric.models(), 0, upstream)

    def _lay_out_diffusion(
        self,
        backbone: str,
        seed: int,
        labels: Mapping[str, str],
        upstream: Mapping[str, Artifact],
    ) -> None:
        labels = {**labels, "backbone": backbone, "seed": str(seed)}
        entry = self.study.backbones[backbone]
        diffusion = self._add("diffusion", labels, entry.canonical(), seed, upstream, entry.local())
        self._measure_learned_fisher(diffusion, upstream)
        made_from = {role: upstream[role] for role in ("dataset", "tokenizer")}
        for guidance in self.study.sampling.scales(backbone):
            for step in (*entry.train.snapshots, None):  # None: the last
                options = self.study.sampling.of_samples(entry.process, guidance)
                noise_seed = options.pop("seed")
                samples = self._add(
                    "samples",
                    labels | {"guidance": f"{guidance:g}", "snapshot": snapshot_label(step)},
                    options if step is None else options | {"step": step},
                    noise_seed,
                    {**made_from, "diffusion": diffusion},
                )
                self._evaluate(samples)

    def _lay_out_control(
        self, control: str, labels: Mapping[str, str], upstream: Mapping[str, Artifact]
    ) -> None:
        """Add samples of one tokenizer that no diffusion model made, and their measurements."""
        sampling = self.study.sampling
        labels = {**labels, "backbone": control_label(control), "seed": "0", "guidance": "1"}
        spec: dict[str, Any] = {"control": control, "count": sampling.count}
        if control == "posterior":
            spec["revision"] = 2  # see `stages.controls.ControlOptions`
        self._evaluate(
            self._add("samples", labels | {"snapshot": ""}, spec, sampling.seed, upstream),
        )

    def _evaluate(self, samples: Artifact) -> None:
        """Add the measurements of one set of samples."""
        spec, made_from, local = self._evaluation
        upstream = {"samples": samples, **made_from, "dataset": self._dataset}
        self._add("generation", samples.labels, spec, 0, upstream, local)

    @cached_property
    def _evaluation(self) -> tuple[dict[str, Any], dict[str, Artifact], dict[str, Any]]:
        """How every set of samples is evaluated: options, upstream artifacts, local options."""
        metric = self.study.generation
        made_from = {"extractor": self._encoder(metric.extractor)}
        if metric.compared is not None:
            made_from["reference"] = self._generation_reference(metric)
        if metric.fdr6 is not None:
            made_from |= self._fdr6_extractors(metric)
        return metric.judged(), made_from, _stated(metric)

    def _generation_reference(self, metric: GenerationMetric) -> Artifact:
        """Return the features of real images that all sets of samples are compared with."""
        spec = GenerationReference.of(metric)
        return self._add(
            "generation_reference",
            {"dataset": self.study.select.dataset},
            spec.canonical(),
            0,
            {"extractor": self._encoder(spec.extractor), "dataset": self._dataset},
            _stated(spec),
        )

    def _fdr6_extractors(self, metric: GenerationMetric) -> dict[str, Artifact]:
        """Return the six extractors of FDr6 by role, and what samples are compared with."""
        assert metric.fdr6 is not None
        extractors = {
            fdr6_role(index): self._encoder(name) for index, name in enumerate(metric.fdr6)
        }
        spec = Fdr6Reference.of(metric)
        reference = self._add(
            "fdr6_reference",
            {"dataset": self.study.select.dataset},
            spec.canonical(),
            0,
            {**extractors, "dataset": self._dataset},
            _stated(spec),
        )
        return {**extractors, "fdr6": reference}


def _stated(spec: Spec) -> dict[str, Any]:
    """Return the execution options of an entry that are set."""
    return {key: value for key, value in spec.local().items() if value is not None}
