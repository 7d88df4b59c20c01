"""The methods section of a report, for a paper to take over, and what to cite."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from diffusability.analysis.catalogue import name_metric
from diffusability.analysis.equal_reconstruction import unequal
from diffusability.study.core.spec import Spec, TrainSpec
from diffusability.study.entries.encoder import EncoderEntry
from diffusability.study.entries.tokenizer import ExternalTokenizer
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.study.planning.plan import Plan
from diffusability.study.study import Study

# options of a network that a methods section names, where it has them
SIZES = ("factor", "channels", "width", "multipliers", "depth", "heads", "patch")

BIBTEX = """@article{zhong2026diffusing,
  title  = {Diffusing in the Right Space: A Systematic Study of Latent Diffusability},
  author = {Zhong, Tianxiong and Tian, Xingye and Wang, Xuebo and Tao, Xin and Wan, Pengfei},
  year   = {2026},
  note   = {arXiv:2606.03578}
}
@article{gu2026fisher,
  title  = {Understanding Latent Diffusability via Fisher Geometry},
  author = {Gu, Jing and Mardani, Morteza and Lee, Wonjun and Zou, Dongmian and Lerman, Gilad},
  year   = {2026},
  note   = {arXiv:2604.02751}
}
@software{diffusability,
  title   = {diffusability: which latent space will a diffusion model learn well, and why},
  author  = {{The diffusability authors}},
  version = {%s},
  year    = {2026}
}"""

RAW = (
    "FI and FIR scale all channels by one number. The reference code of LNC, SRSS, LDS and CDS "
    "uses raw latents; those values are in the tables as _raw."
)
STORED = f"Metrics of latents. They use latents as on disk, z-scored per channel. {RAW}"
ENCODED = (
    f"Metrics of latents. They use posterior means, z-scored per channel. {RAW} iFID uses raw "
    "latents, uniformity draws from the posteriors, unless the study says otherwise."
)


def methods(
    plan: Plan,
    tables: Mapping[str, pd.DataFrame],
    target: str,
    manifests: Iterable[Mapping[str, Any]],
    packages: Mapping[str, str],
) -> list[str]:
    """Return the paragraphs of the methods section.

    Args:
        plan: of the study. tables: each backbone at its last step. target: what was predicted.
        manifests: of the datasets. packages: versions by name.
    """
    study, measurements = plan.study, tables["measurements"]
    paragraphs = [_data(study, manifests), _tokenizers(plan, measurements)]
    if study.selected_metrics:
        paragraphs.append(ENCODED if study.dataset.has_images else STORED)
    models = measurements[measurements["metric"] == target]
    if len(models):
        paragraphs += [_models(plan, models), _samples(study, models, target)]
    if target:
        paragraphs += [_statistics(study), _fixed(study, tables["tokenizers"])]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    return [*paragraphs, f"Versions. {versions}. State of the study: {plan.fingerprint}."]


def _data(study: Study, manifests: Iterable[Mapping[str, Any]]) -> str:
    data, size = study.dataset, study.dataset.size
    read = f"{data.kind} images of {size} × {size} pixels" if data.has_images else "latents alone"
    return f"Data. {read}{''.join(map(_images, manifests))}."


def _images(manifest: Mapping[str, Any]) -> str:
    splits = manifest.get("images_by_class", {})
    sizes = [f"{sum(counts):,} for {name}" for name, counts in splits.items()]
    damaged = len(manifest.get("damaged", {}))
    left_out = f"; damaged files left out: {damaged}" if damaged else ""
    gaps = sum(not any(counts) for counts in zip(*splits.values(), strict=False))
    classes = f" of {manifest['classes'] - gaps} classes" if manifest.get("classes") else ""
    return f", {manifest['images']:,} images{classes} ({', '.join(sizes)}){left_out}"


def _tokenizers(plan: Plan, measurements: pd.DataFrame) -> str:
    """Return the paragraph on tokenizers: how many, how trained, aligned with what."""
    study, known = plan.study, measurements.drop_duplicates("tokenizer")
    entries = {name: study.tokenizers[name] for name in study.selected_tokenizers}
    trained = {n: e for n, e in entries.items() if isinstance(e, TokenizerSpec)}
    by_family = known.groupby("family", sort=False)
    clusters = " in {} clusters" if trained else ""
    families = [
        f"{len(own)} of {family}{clusters.format(own['cluster'].nunique())}"
        for family, own in by_family
    ]
    networks = {e.family: f"{e.family}: {_network(e.network)}" for e in trained.values()}
    settings = {e.family: _training(e.train) for e in reversed(trained.values())}
    others = [name for name, e in trained.items() if _training(e.train) != settings[e.family]]
    said = [f"{networks[family]}, {settings[family]}" for family in networks]
    encoders = {getattr(e.regularizer, "encoder", None) for e in trained.values()} - {None}
    own = [_encoder(name, study.encoders[name]) for name in study.encoders if name in encoders]
    repeated = grey_repeated(study)
    return (
        f"Tokenizers. {len(known)}: {', '.join(families)}"
        f"{'; a cluster is a regularizer method' if trained else ''}. "
        f"Seeds: {_list(study.select.tokenizer_seeds)}{_repeats(plan)}."
        + (f" Trained as {'; '.join(said)}." if said else "")
        + (f" Trained otherwise (see the study file): {_list(others)}." if others else "")
        + (f" {repeated}" if repeated else "")
        + (f" Encoders that some are aligned with: {'; '.join(own)}." if own else "")
    )


def grey_repeated(study: Study) -> str:
    """Return which tokenizers take grey images as colour ones, in a sentence; empty: none."""
    names = [
        name
        for name in study.selected_tokenizers
        if isinstance(entry := study.tokenizers[name], ExternalTokenizer)
        and entry.repeats_grey(study.dataset.image_channels)
    ]
    if not names:
        return ""
    return (
        f"{_list(names)}: grey images are encoded as three equal channels, and the mean of the "
        "three is taken of what is decoded."
    )


def _network(network: Spec) -> str:
    """Return the options of a network in words."""
    options = network.canonical()
    named = (f"{key.replace('_', ' ')} {_value(options[key])}" for key in SIZES if key in options)
    return f"{options['arch']} ({', '.join(named)})"


def _training(train: TrainSpec) -> str:
    """Return the options of a training in words."""
    return (
        f"{train.steps:,} steps of {train.batch} images, AdamW with learning rate {train.lr:g} "
        f"({train.schedule})" + ("" if train.ema is None else f", EMA {train.ema:g}")
    )


def _encoder(name: str, entry: EncoderEntry) -> str:
    return f"{name} ({', '.join(filter(None, [entry.kind, getattr(entry, 'arch', '')]))})"


def _value(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _repeats(plan: Plan) -> str:
    study = plan.study
    crossed = len(study.select.tokenizer_seeds) * len(study.select.seeds)
    repeated = sum(len(study.seeds_of(name)) > crossed for name in study.selected_tokenizers)
    have = "has" if repeated == 1 else "have"
    return f"; {repeated} {have} further seeds, for the noise floor" if repeated else ""


def _models(plan: Plan, models: pd.DataFrame) -> str:
    """Return the paragraph on diffusion models."""
    study = plan.study
    runs = models[["tokenizer", "tokenizer_seed", "backbone", "seed"]].drop_duplicates()
    said = [
        f"{name}: {_network(study.backbones[name])}, {_training(study.backbones[name].train)}"
        for name in study.selected_backbones
    ]
    seeds = sorted(runs["seed"].dropna().astype(int).unique())
    return (
        f"Diffusion models. {len(runs)} were trained on the latents, with the seeds "
        f"{_list(seeds)}: {'; '.join(said)}."
    )


def _samples(study: Study, models: pd.DataFrame, target: str) -> str:
    """Return the paragraph on generated images and their quality."""
    scales = sorted(models["guidance"].dropna().unique())
    counts = models["n"].dropna()
    images = f"{counts.min():,.0f}" if len(counts) else "an unknown number of"
    guided = f", classifier-free guidance {_list(f'{s:g}' for s in scales)} (1: none)"
    judged = study.encoders[study.generation.extractor]
    return (
        f"Images. {images} per model, {study.sampling.solver} with "
        f"{study.sampling.evaluations} function evaluations{guided if scales else ''}. Quality is "
        f"{name_metric(target)}: between Gaussian fits of features of generated and of "
        f"{study.generation.reference} images, by the encoder "
        f"{_encoder(study.generation.extractor, judged)}. {_failures(study, models)}"
    )


def _failures(study: Study, models: pd.DataFrame) -> str:
    """Return how many of the judged sets of samples failed, and by which of the two rules."""
    failed = models["failed"].dropna().astype(bool)
    if failed.empty:
        return "Whether samples failed was not judged."
    gaussian = (
        ", or a distance that is not below that of draws of a Gaussian per class by two standard "
        "errors"
    )
    return (
        f"{failed.sum()} of {len(failed)} sets of samples failed: class accuracy within two "
        f"standard errors of chance{gaussian * ('gaussian' in study.controls)}."
    )


def _statistics(study: Study) -> str:
    return (
        f"Statistics. Pearson's r over the tokenizers of one family. Its {_percent(study)} "
        "interval is a delete-one-cluster jackknife (CV3) on the scale of Fisher's z, two-way "
        "over clusters and alignment encoders where several clusters share an encoder, with "
        "Student's t of one degree of freedom per unit less one; p is of that interval, and is "
        "corrected by Holm's method over all metrics of a panel, in the answer also by "
        "Bonferroni's over backbones. Partial correlations are given PSNR. Reliability is the "
        "share of the variance of the tokenizers' means that is not between diffusion models of "
        "one trained tokenizer, with the interval of ICC(k) for independent tokenizers. Linear "
        "fits are judged by leave-one-cluster-out cross-validation."
    )


def _fixed(study: Study, judged: pd.DataFrame) -> str:
    """Return the paragraph on what the study file fixes, and whom it leaves out."""
    text = (
        "Fixed in the program and the study file. Metrics with their directions, the metric that "
        "represents each perspective, claims with their statistics and regions, and the rules for "
        "failed models and for metrics at chance."
    )
    if declared := study.analysis.declared:
        count = len(declared.metrics) * len(declared.backbones) * len(declared.families)
        text += (
            f" Declared before the run were {count} tests: the correlation of "
            f"{_list(declared.metrics)} with {declared.target}, on {_list(declared.backbones)} in "
            f"{_list(declared.families)}."
        )
    limits = study.analysis.equal_reconstruction
    if limits is None:
        return text
    out = unequal(judged)
    return (
        f"{text} Only tokenizers of equal reconstruction are compared: inside the window of "
        f"{limits.psnr_spread:g} dB of PSNR that holds the most of a family, and with an rFD below "
        f"{limits.rfd_share:.0%} of the family's smallest gFD. "
        + (f"Left out: {_list(out)}." if out else "None was left out.")
    )


def _percent(study: Study) -> str:
    return f"{study.analysis.confidence:.0%}"


def _list(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))
