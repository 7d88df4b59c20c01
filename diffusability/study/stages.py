"""The stages of the workflow: what makes an artifact, what it holds, and its declared version.

A stage's version states what its code means. It is part of every fingerprint of that stage, so
raising it makes the stage and all that follows run again. A test compares a digest of the code
behind each stage with the committed one and asks, when they differ, whether the change altered
results (raise the version here) or not (accept the digest). The versions stand in one table, and
not in the stages' own modules, because the study layer must read them without importing torch.
"""

from dataclasses import dataclass

RESULTS = "results"


@dataclass(frozen=True)
class Stage:
    """One kind of artifact.

    Attributes:
        version: raised when the stage's code changes what it produces.
        rule: the Snakemake rule, and the script, that makes it.
        outputs: files of a finished artifact, beside its card.
        labels: names that tell its artifacts apart, in the order of the path.
        bulk: pattern of files that may be evicted; a job that needs them makes them again.
        gpu: whether its rule asks for a GPU, and its jobs therefore hold one.
        distributed: whether several processes (torchrun) can make one artifact together.
    """

    version: int
    rule: str
    outputs: tuple[str, ...]
    labels: tuple[str, ...]
    bulk: str = ""
    gpu: bool = False
    distributed: bool = False


_TOKENIZER = ("tokenizer", "tokenizer_seed")
_DIFFUSION = (*_TOKENIZER, "backbone", "seed")
_SAMPLES = (*_DIFFUSION, "guidance")


def _measure(perspective: str, *more: str, version: int = 1, gpu: bool = False) -> Stage:
    return Stage(
        version=version,
        rule=f"measure_{perspective}",
        outputs=("measurements.json", *more),
        labels=_TOKENIZER,
        gpu=gpu,
    )


STAGES: dict[str, Stage] = {
    "dataset": Stage(
        version=1,
        rule="prepare_dataset",
        outputs=("manifest.json",),
        labels=("dataset",),
    ),
    "encoder": Stage(
        version=1,
        rule="train_encoder",
        outputs=("model.safetensors", "history.csv"),
        labels=("encoder",),
        gpu=True,
    ),
    "tokenizer": Stage(
        version=1,
        rule="train_tokenizer",
        outputs=("model.safetensors", "history.csv"),
        labels=_TOKENIZER,
        gpu=True,
    ),
    "latents": Stage(
        version=1,
        rule="cache_latents",
        outputs=("latents.json",),
        labels=_TOKENIZER,
        gpu=True,
    ),
    "velocity": _measure("velocity"),
    "semantics": _measure("semantics"),
    "spatial": _measure("spatial"),
    "smoothness": _measure("smoothness"),
    "continuity": _measure("continuity", "neighbours.safetensors", version=2, gpu=True),
    "uniformity": _measure("uniformity", version=2),
    "equivariance": _measure("equivariance", gpu=True),
    "reconstruction": _measure("reconstruction", "reconstructions.png", version=2, gpu=True),
    "geometry": _measure("geometry", "spectra.csv"),
    "pixel_fisher": Stage(
        version=1,
        rule="measure_pixel_fisher",
        outputs=("curves.json",),
        labels=("dataset",),
    ),
    "fisher": _measure("fisher"),
    "diffusion": Stage(
        version=1,
        rule="train_diffusion",
        outputs=("model.safetensors", "history.csv"),
        labels=_DIFFUSION,
        gpu=True,
        distributed=True,
    ),
    "learned_fisher": Stage(
        version=2,
        rule="measure_learned_fisher",
        outputs=("measurements.json",),
        labels=_DIFFUSION,
        gpu=True,
    ),
    "samples": Stage(
        version=1,
        rule="sample",
        outputs=("samples.json", "samples.png"),
        labels=_SAMPLES,
        bulk="shard-*.safetensors",
        gpu=True,
    ),
    "generation": Stage(
        version=1,
        rule="evaluate_generation",
        outputs=("measurements.json",),
        labels=_SAMPLES,
        gpu=True,
    ),
    "generation_reference": Stage(
        version=1,
        rule="extract_generation_reference",
        outputs=("moments.safetensors", "vectors.safetensors"),
        labels=("dataset",),
        gpu=True,
    ),
    "fdr6_reference": Stage(
        version=1,
        rule="compute_fdr6_reference",
        outputs=("normalisers.json", "references.safetensors"),
        labels=("dataset",),
        gpu=True,
    ),
    "fisher_toy": Stage(
        version=1,
        rule="measure_fisher_toy",
        outputs=("curve.csv",),
        labels=("space", "network", "seed"),
    ),
}

CARD = "provenance.json"


def stage_module(stage: str) -> str:
    """Return the module that makes a stage's artifacts; its imports are the stage's code."""
    return f"diffusability.stages.{stage}"


def path_template(stage: str) -> str:
    """Return the directory of a stage's artifacts with its labels as `{wildcards}`."""
    folders = {
        "tokenizer_seed": "s{tokenizer_seed}",
        "seed": "s{seed}",
        "guidance": "cfg{guidance}",
    }
    parts = [folders.get(label, f"{{{label}}}") for label in STAGES[stage].labels]
    return "/".join([RESULTS, stage, *parts, "{fingerprint}"])
