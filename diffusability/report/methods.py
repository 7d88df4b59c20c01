"""The methods section of a report, for a paper to take over, and what to cite."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from diffusability.analysis.catalogue import name_metric
from diffusability.study.plan import Plan

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

LATENTS = (
    "Metrics of latents. They are of posterior means, z-scored per channel; that goes for the "
    "headline's LNC, SRSS, LDS and CDS too, whose reference code takes raw latents: the tables "
    "have those under the same names with _raw. iFID is of raw latents, uniformity of draws from "
    "the posteriors, unless the study says otherwise."
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
    known = measurements.drop_duplicates("tokenizer")
    families = [
        f"{len(own)} of {family} in {own['cluster'].nunique()} clusters"
        for family, own in known.groupby("family", sort=False)
    ]
    data, size = study.dataset, study.dataset.size
    read = f"{data.kind} images of {size} × {size} pixels" if data.has_images else "latents alone"
    paragraphs = [
        f"Data. {read}{''.join(map(_images, manifests))}.",
        f"Tokenizers. {len(known)} {'was' if len(known) == 1 else 'were'} trained or read: "
        f"{', '.join(families)}; a cluster is a "
        f"regularizer method. Seeds: {_list(study.select.tokenizer_seeds)}{_repeats(plan)}.",
    ]
    if study.selected_metrics:
        paragraphs.append(LATENTS)
    models = measurements[measurements["metric"] == target]
    if len(models):
        paragraphs.append(_models(plan, models, target))
    versions = f"Versions. {', '.join(f'{name} {version}' for name, version in packages.items())}."
    if not target:
        state = f"State of the study: {plan.fingerprint}."
        return [*paragraphs, f"{versions} {state}"]
    confidence = f"{study.analysis.confidence:.0%}"
    paragraphs += [
        "Statistics. Correlations are Pearson's, over the tokenizers of one family, with "
        f"{confidence} intervals over clusters: the statistic is computed again without each "
        "cluster, and the interval uses Student's t with one degree of freedom per cluster less "
        "one. p-values are corrected by Holm's method over the metrics of a panel. Fits are judged "
        "on clusters that were left out.",
        "Decided beforehand. Metrics with their directions, claims with their statistics and "
        "regions, the rule for failed models and that for metrics at chance are part of the "
        "program and the study file; none is chosen by the results (state of the study "
        f"{plan.fingerprint})." + _equality(plan),
        versions,
    ]
    return paragraphs


def _models(plan: Plan, models: pd.DataFrame, target: str) -> str:
    """Return the paragraph on diffusion models and their images."""
    study = plan.study
    scales = sorted(models["guidance"].dropna().unique())
    counts = models["n"].dropna()
    images = f"{counts.min():,.0f}" if len(counts) else "an unknown number of"
    trained = len(models[["tokenizer", "tokenizer_seed", "backbone", "seed"]].drop_duplicates())
    return (
        f"Diffusion models. {trained} models were trained on the latents: "
        f"{', '.join(study.selected_backbones)}, with the seeds {_list(study.select.seeds)}. "
        f"Quality is {name_metric(target)} of {images} images per model"
        + (f", at guidance {_list(f'{scale:g}' for scale in scales)}" if scales else "")
        + "."
    )


def _images(manifest: Mapping[str, Any]) -> str:
    splits = manifest.get("images_by_class", {})
    sizes = [f"{sum(counts):,} for {name}" for name, counts in splits.items()]
    damaged = len(manifest.get("damaged", {}))
    left_out = f"; damaged files left out: {damaged}" if damaged else ""
    classes = f" of {manifest['classes']} classes" if manifest.get("classes") else ""
    return f", {manifest['images']:,} images{classes} ({', '.join(sizes)}){left_out}"


def _repeats(plan: Plan) -> str:
    study = plan.study
    crossed = len(study.select.tokenizer_seeds) * len(study.select.seeds)
    repeated = sum(len(study.seeds_of(name)) > crossed for name in study.selected_tokenizers)
    have = "has" if repeated == 1 else "have"
    return f"; {repeated} {have} further seeds, for the noise floor" if repeated else ""


def _equality(plan: Plan) -> str:
    limits = getattr(plan.study.analysis, "equal_reconstruction", None)
    if limits is None:
        return ""
    return (
        f" Tokenizers outside {limits.psnr_spread:g} dB of PSNR of their family, or with an rFD "
        f"above {limits.rfd_share:.0%} of its smallest gFD, were left out."
    )


def _list(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))
