"""Whether the parts of a study fit each other: what one names, another must declare."""

from collections.abc import Iterable, Mapping
from typing import Any

from diffusability.study.core.fingerprint import canonical_json
from diffusability.study.core.names import INCEPTION, INCEPTION_SPATIAL
from diffusability.study.core.problems import Problems, nearest
from diffusability.study.entries.encoder import InceptionEncoder
from diffusability.study.entries.encoder_entry import Use
from diffusability.study.entries.sampling import GUIDANCE_OPTIONS, PROCESS_OPTIONS
from diffusability.study.metrics.generation import GenerationMetric
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.reading.declarable import declarable_metrics, declarable_targets
from diffusability.study.reading.sizes import check_sizes
from diffusability.study.study import Study

Declared = Mapping[str, Mapping[str, Any]]  # names and entries of each section, as written


def check_parts(
    study: Study, data: Mapping[str, Any], declared: Declared, problems: Problems
) -> None:
    """Record what does not fit among those parts of a study that are valid.

    Args:
        study: of the valid parts. data: the mapping that it was read from.
        declared: names and entries of its sections. problems: where they are recorded.
    """
    valid = study.model_fields_set
    if "select" in valid:
        _check_select(study, declared, problems)
    _check_tokenizers(study, declared, problems)
    _check_twins(study, problems)
    if "metrics" in valid:
        _check_metrics(study, declared, problems)
    if {"select", "analysis"} <= valid:
        _check_declared(study, declared, problems)
    if {"select", "metrics"} <= valid:
        if study.select.dataset in study.datasets:
            check_sizes(study, problems)
            _check_latents(study, problems)
        if "sampling" in valid or "sampling" not in data:
            _check_sampling(study, problems)
            _check_process_options(study, declared, problems)


def _check_select(study: Study, declared: Declared, problems: Problems) -> None:
    """What is selected must be declared."""
    select = study.select
    tokenizers, backbones = declared["tokenizers"], declared["backbones"]
    if select.dataset not in declared["datasets"]:
        problems.unknown("select.dataset", select.dataset, "dataset", declared["datasets"])
    _check_list("select.tokenizers", select.tokenizers, "tokenizer", tokenizers, problems)
    _check_list("select.backbones", select.backbones, "backbone", backbones, problems)
    _check_list("select.repeats", select.repeats, "tokenizer", tokenizers, problems)
    _check_list("select.without", select.without, "tokenizer", tokenizers, problems)


def _check_tokenizers(study: Study, declared: Declared, problems: Problems) -> None:
    """The encoders that tokenizers are trained with must be declared, and fit."""
    keys: dict[str, tuple[str, Use]] = {
        "encoder": ("encoder", "alignment"),
        "perceptual": ("objective.perceptual_encoder", "perceptual"),
    }
    for name, spec in study.tokenizers.items():
        for role, encoder in spec.encoders.items():
            key, use = keys[role]
            _check_encoder(f"tokenizers.{name}.{key}", encoder, use, study, declared, problems)


def _check_twins(study: Study, problems: Problems) -> None:
    """One entry under two names would be made twice, and count twice in every statistic.

    Two entries are one where the same is hashed of them: paths and options of execution may differ.
    """
    sections = {
        "tokenizers": {name: _hashed(study, name) for name in study.tokenizers},
        "backbones": {name: entry.canonical() for name, entry in study.backbones.items()},
    }
    for section, entries in sections.items():
        first: dict[str, str] = {}
        for name, hashed in entries.items():
            twin = first.setdefault(canonical_json(hashed), name)
            if twin != name:
                problems.add(
                    f"{section}.{name}",
                    f"the same as `{twin}`; leave one of them out (select.repeats trains with "
                    "other seeds)",
                )


def _hashed(study: Study, tokenizer: str) -> dict[str, Any]:
    """Return what the fingerprint of a tokenizer depends on, but for images and seed."""
    spec = study.tokenizers[tokenizer]
    encoders = {
        role: study.encoders[name].canonical() if name in study.encoders else name
        for role, name in spec.encoders.items()
    }
    trained = _hashed(study, spec.trained) if spec.trained in study.tokenizers else None
    # files that are missing, or that the study gives a name, may be different ones
    unknown = [str(need.path) for need in spec.needs() if not need.there]
    unknown += [named.place for named in spec.named_contents()]
    return {
        **{"entry": spec.fingerprinted(), "encoders": encoders},
        **{"trained": trained, "unknown": unknown},
    }


def _check_metrics(study: Study, declared: Declared, problems: Problems) -> None:
    """The encoders, tokenizers and backbones that metrics name must be declared, and fit."""
    groups = study.metrics.groups
    selected = study.select.metrics if "select" in study.model_fields_set else "all"
    for name in () if selected == "all" else selected:
        if name not in groups:
            problems.add(
                "select.metrics", f"`{name}` is not declared; add `{name}: {{}}` to metrics"
            )
    uses: dict[str, Use] = {"extractor": "features", "lpips": "lpips"}
    for metric, options in groups.items():
        for role, encoder in options.encoders.items():
            where = f"metrics.{metric}.{role}"
            _check_encoder(where, encoder, uses[role], study, declared, problems)
    _check_inception(study, problems)
    fisher, generation = study.metrics.fisher, study.metrics.generation
    if fisher is not None and fisher.reference not in (None, *declared["tokenizers"]):
        where, known = "metrics.fisher.reference", declared["tokenizers"]
        problems.unknown(where, fisher.reference, "tokenizer", known)
    if fisher is not None and fisher.reference_backbone not in (None, *declared["backbones"]):
        where, known = "metrics.fisher.reference_backbone", declared["backbones"]
        problems.unknown(where, fisher.reference_backbone, "backbone", known)
    if fisher is not None and fisher.learned is not None:
        where, chosen = "metrics.fisher.learned.backbones", fisher.learned.backbones
        _check_list(where, chosen, "backbone", declared["backbones"], problems)
    if generation is not None:
        _check_generation(generation, study, declared, problems)
    elif declared["backbones"]:
        problems.add(
            "metrics.generation",
            "this key is required: it says how images that the `backbones` generate are judged; "
            "a study without diffusion models has no `backbones`",
        )
    if generation is None and not groups:
        problems.add("metrics", f"nothing is measured; name one of {', '.join(METRIC_GROUPS)}")


def _check_generation(
    generation: GenerationMetric,
    study: Study,
    declared: Declared,
    problems: Problems,
) -> None:
    """Its extractors must be declared, and those of FDr6 be six different ones."""
    extractor = generation.extractor
    _check_encoder("metrics.generation.extractor", extractor, "features", study, declared, problems)
    if generation.reference_content is not None and extractor != INCEPTION:
        problems.add(
            "metrics.generation.reference_statistics",
            f"holds moments of Inception features, the extractor is `{extractor}`; "
            "leave it out, or name an extractor of kind inception",
        )
    where, names = "metrics.generation.fdr6", generation.fdr6 or ()
    for name in dict.fromkeys(names):
        _check_encoder(where, name, "features", study, declared, problems)
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        problems.add(where, f"`{name}` is named {names.count(name)} times; six spaces must differ")


def _check_encoder(
    where: str,
    name: str,
    use: Use,
    study: Study,
    declared: Declared,
    problems: Problems,
) -> None:
    """An encoder must be declared, and of a kind that can serve in its role."""
    if name not in declared["encoders"]:
        problems.unknown(where, name, "encoder", declared["encoders"])
    elif name in study.encoders and use not in study.encoders[name].uses:
        fit = sorted(n for n, spec in study.encoders.items() if use in spec.uses)
        problems.add(
            where,
            f"`{name}` is of kind {study.encoders[name].kind}, which does not serve for {use} "
            f"(declared here and fit: {', '.join(fit) or 'none'})",
        )


def _check_inception(study: Study, problems: Problems) -> None:
    """Only distances in Inception's features are called FID, and only they have ADM's reference."""
    reserved = (INCEPTION, INCEPTION_SPATIAL)
    for name, spec in study.encoders.items():
        if isinstance(spec, InceptionEncoder) != (name in reserved):
            problems.add(
                f"encoders.{name}",
                f"an encoder of kind inception is called `{INCEPTION}`, and no other is called "
                f"{' or '.join(f'`{taken}`' for taken in reserved)}: its distances are FID",
            )


def _check_declared(study: Study, declared: Declared, problems: Problems) -> None:
    """Declared tests must be of what the study measures; `select` may leave some of it out."""
    tests = study.analysis.declared
    if tests is None:
        return
    _check_list(
        "analysis.declared.backbones", tests.backbones, "backbone", declared["backbones"], problems
    )
    families = {tokenizer.family: None for tokenizer in study.tokenizers.values()}
    for family in tests.families:
        if family not in families:
            problems.unknown("analysis.declared.families", family, "family", families)
    if "metrics" not in study.model_fields_set:
        return
    where, shown = "analysis.declared.metrics", declarable_metrics(study.metrics)
    _check_list(where, tests.metrics, "metric", shown, problems)
    generation = study.metrics.generation
    targets = () if generation is None else declarable_targets(generation)
    if tests.target not in targets:
        problems.unknown("analysis.declared.target", tests.target, "metric", targets)


def _check_list(
    where: str,
    chosen: str | Iterable[str],
    kind: str,
    declared: Iterable[str],
    problems: Problems,
) -> None:
    if chosen == "all":
        return
    seen: set[str] = set()
    for name in chosen:
        if name not in declared:
            problems.unknown(where, name, kind, declared)
        if name in seen:
            problems.add(where, f"`{name}` is named twice")
        seen.add(name)


def _check_latents(study: Study, problems: Problems) -> None:
    """Latents on disk generate no images, and what is measured must be there."""
    makers = ["`backbones`"] if study.has_models else []
    makers += ["`metrics.generation.controls`"] if study.controls else []
    for name in study.selected_tokenizers:
        entry = study.tokenizers[name]
        if makers and not entry.decodes:
            what = "features of an encoder" if entry.encodes else "latents on disk"
            problems.add(
                f"tokenizers.{name}",
                f"{what} have no decoder, so no images can be generated from them; leave it out "
                f"of `select.tokenizers`, or {' and '.join(makers)} out of the study",
            )
        if not study.dataset.has_images and entry.encodes:
            problems.add(
                f"tokenizers.{name}",
                f"the dataset `{study.select.dataset}` has no images that it could encode",
            )
    if not study.dataset.has_images:
        for metric, options in study.selected_metrics.items():
            if not study.dataset.counts().of(options.split):
                problems.add(
                    f"metrics.{metric}.split",
                    f"`{study.select.dataset}` has no validation split; write `split: all`",
                )


def _check_process_options(study: Study, declared: Declared, problems: Problems) -> None:
    """Options of sampling are for one process, or for guidance, which some backbone must have."""
    processes = {backbone.process for backbone in study.backbones.values()}
    if not processes or len(study.backbones) < len(declared["backbones"]):
        return  # none is sampled from, or some have problems of their own
    given = study.sampling.model_dump(exclude_defaults=True)
    for process, keys in PROCESS_OPTIONS.items():
        for key in keys:
            if process not in processes and key in given:
                problems.add(
                    f"sampling.{key}",
                    f"for process {process}, which no backbone has; leave it out",
                )
    if all(scale == 1 for name in study.backbones for scale in study.sampling.scales(name)):
        for key in GUIDANCE_OPTIONS:
            if key in given:
                problems.add(
                    f"sampling.{key}",
                    "every guidance scale is 1, which is no guidance; leave it out, or add a scale "
                    "to sampling.guidance",
                )


def _check_sampling(study: Study, problems: Problems) -> None:
    """Guidance needs labels, and EDM's levels at least two steps."""
    sampling = study.sampling
    for name in sampling.guidance_of:
        if name not in study.backbones:
            hint = nearest(name, study.backbones)
            problems.add(f"sampling.guidance_of.{name}", f"unknown backbone ({hint})")
    for name in study.selected_backbones:
        backbone = study.backbones[name]
        scales = ", ".join(f"{scale:g}" for scale in sampling.scales(name) if scale != 1)
        where = f"backbones.{name}.class_dropout"
        if scales and not backbone.conditional:
            problems.add(
                where,
                f"1 trains an unconditional model, which guidance at {scales} cannot steer; "
                "leave these scales out of sampling.guidance, or the backbone out of select",
            )
        if scales and not backbone.unconditional:
            problems.add(
                where,
                f"0 trains no model without labels, away from which guidance at {scales} could "
                "steer; set it to 0.1, or leave these scales out of sampling.guidance",
            )
        if backbone.process == "edm" and sampling.steps < 2:
            problems.add(
                "sampling.evaluations",
                f"{sampling.evaluations} is one step of {sampling.solver}; the levels of `{name}` "
                "(process edm) need two",
            )
