"""The stages of the workflow: what makes an artifact, what it holds, and its declared version.

A stage's version states what its code means. It is part of every fingerprint of that stage, so
raising it makes the stage and all that follows run again. A test compares a digest of the code
behind each stage with the committed one and asks, when they differ, whether the change altered
results (raise the version here) or not (accept the digest). Versions are declared here, not in the
stages' own modules, because the study layer must read them without importing torch.

The stages of metric groups follow from their declarations (`study/metrics/groups.py`).
"""

from dataclasses import dataclass
from functools import cache

from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.metrics.metric_group import MetricGroup

RESULTS = "results"
IN_TF32 = ("encoder", "tokenizer", "diffusion", "samples")  # on GPUs; others in full float32
BULK = ("latents", "samples")  # stages whose files can be evicted, and restored
CARD = "provenance.json"
RESTORED = "restored.json"  # beside the card, once evicted files were made again
# jobs of one group run side by side in one Slurm job, on one GPU if they need any
ON_LATENTS = "latents.{tokenizer}.{tokenizer_seed}"
ON_IMAGES = "images.{tokenizer}.{tokenizer_seed}"
ON_MODELS = "generation.{tokenizer}.{tokenizer_seed}.{backbone}.{seed}"


@dataclass(frozen=True)
class Stage:
    """One kind of artifact.

    Attributes:
        version: raised when the stage's code changes what it produces.
        rule: the Snakemake rule that makes it.
        about: what the rule does, in one sentence.
        code: `module:function` that makes it.
        outputs: files of a finished artifact, beside its card.
        labels: names that tell its artifacts apart, in the order of the path.
        step: order within one tokenizer; of the jobs that can start, later steps go first.
        memory: megabytes. minutes: least time of a job; more where more is counted.
        threads: CPU cores of a job.
        bulk: pattern of outputs that may be evicted; the rule restore_<stage> makes them again.
        gpu: whether its rule asks for a GPU, and its jobs therefore hold one.
        distributed: whether several processes (torchrun) can make one artifact together.
        resumes: whether a job that runs out of time saves its state, and the next goes on.
        group: of jobs that slurm/config.yaml submits together, with wildcards; empty: alone.
    """

    version: int
    rule: str
    about: str
    code: str
    outputs: tuple[str, ...]
    labels: tuple[str, ...]
    step: int
    memory: int
    minutes: int
    threads: int = 1
    bulk: str = ""
    gpu: bool = False
    distributed: bool = False
    resumes: bool = False
    group: str = ""


_TOKENIZER = ("tokenizer", "tokenizer_seed")
_DIFFUSION = (*_TOKENIZER, "backbone", "seed")
# `snapshot` shares the folder of `guidance`: empty for the last step, else as `snapshot_label`
_SAMPLES = (*_DIFFUSION, "guidance", "snapshot")
# Within a tokenizer, what frees disk goes before what fills it: latents are free once every
# diffusion model is trained on them, samples once they are evaluated.
_SHARED, _TRAINED, _ENCODED, _SAMPLED, _MEASURED, _LEARNED, _EVALUATED = 0, 10, 20, 30, 40, 50, 60
PLAIN_METRIC = (
    "diffusability.stages.make:plain_metric"  # of groups that say which tensors they read
)


def _measure(group: MetricGroup) -> Stage:
    """Return the stage of a metric group."""
    return Stage(
        version=group.version,
        rule=f"measure_{group.name}",
        about=group.about,
        code=PLAIN_METRIC if group.reads else group.code,
        outputs=("measurements.json", *group.outputs),
        labels=_TOKENIZER,
        step=_MEASURED,
        memory=group.memory,
        minutes=group.minutes,
        gpu=group.gpu,
        group=ON_IMAGES if group.gpu else ON_LATENTS,
    )


STAGES: dict[str, Stage] = {
    "dataset": Stage(
        version=1,
        rule="prepare_dataset",
        about="Look at every image once: counts, split, masks, and a hash of it all.",
        code="diffusability.stages.dataset:make",
        outputs=("manifest.json",),
        labels=("dataset",),
        step=_SHARED,
        memory=4_000,
        minutes=120,
        threads=8,  # every image of a folder is decoded once
    ),
    "encoder": Stage(
        version=1,
        rule="train_encoder",
        about="Train a small network of the study's own: an alignment target or feature extractor.",
        code="diffusability.stages.encoder:make",
        outputs=("model.safetensors", "history.csv"),
        labels=("encoder",),
        step=_SHARED,
        memory=8_000,
        minutes=240,
        gpu=True,
        resumes=True,
    ),
    "tokenizer": Stage(
        version=1,
        rule="train_tokenizer",
        about="Train one tokenizer; resumes from its own state after an interruption.",
        code="diffusability.stages.tokenizer:make",
        outputs=("model.safetensors", "history.csv"),
        labels=_TOKENIZER,
        step=_TRAINED,
        memory=32_000,
        minutes=720,
        gpu=True,
        distributed=True,
        resumes=True,
    ),
    "latents": Stage(
        version=1,
        rule="cache_latents",
        about="Encode every image once; the shards are a cache beside the artifact.",
        code="diffusability.stages.latents:make",
        outputs=("latents.json",),
        labels=_TOKENIZER,
        step=_ENCODED,
        memory=32_000,
        minutes=240,
        gpu=True,
    ),
    **{name: _measure(group) for name, group in METRIC_GROUPS.items()},
    "pixel_fisher": Stage(
        version=4,
        rule="measure_pixel_fisher",
        about="Fisher information and its rate in pixel space, from which latents deviate.",
        code="diffusability.stages.latent_metrics:pixel_fisher",
        outputs=("curves.json",),
        labels=("dataset",),
        step=_MEASURED,
        memory=16_000,
        minutes=480,
    ),
    "diffusion": Stage(
        version=1,
        rule="train_diffusion",
        about="Train one diffusion model on cached latents; resumes from its own state.",
        code="diffusability.stages.diffusion:make",
        outputs=("model.safetensors", "history.csv"),
        labels=_DIFFUSION,
        step=_LEARNED,
        memory=64_000,
        minutes=720,
        gpu=True,
        distributed=True,
        resumes=True,
    ),
    "learned_fisher": Stage(
        version=5,
        rule="measure_learned_fisher",
        about="Fisher information, its rate and the MMSE rate that a trained model has learned.",
        code="diffusability.stages.diffusion:measure_fisher",
        outputs=("measurements.json", "fir_images.png"),
        labels=_DIFFUSION,
        step=_MEASURED,
        memory=32_000,
        minutes=120,
        gpu=True,
        group=ON_MODELS,
    ),
    "samples": Stage(
        version=1,
        rule="sample",
        about="Generate images at one guidance scale, and follow their trajectories.",
        code="diffusability.stages.samples:make",
        outputs=("samples.json", "samples.png"),
        labels=_SAMPLES,
        step=_SAMPLED,
        memory=32_000,
        minutes=240,
        bulk="shard-*.safetensors",
        gpu=True,
    ),
    "generation": Stage(
        version=1,
        rule="evaluate_generation",
        about="Compare generated images with real ones.",
        code="diffusability.stages.generation:make",
        outputs=("measurements.json",),
        labels=_SAMPLES,
        step=_EVALUATED,
        memory=32_000,
        minutes=240,
        gpu=True,
        group=ON_MODELS,
    ),
    "generation_reference": Stage(
        version=2,
        rule="extract_generation_reference",
        about="Extract features of the real images to compare samples with, once per dataset.",
        code="diffusability.stages.references:make_generation_reference",
        outputs=("moments.safetensors", "vectors.safetensors"),
        labels=("dataset",),
        step=_MEASURED,
        memory=16_000,
        minutes=1440,
        gpu=True,
    ),
    "fdr6_reference": Stage(
        version=1,
        rule="compute_fdr6_reference",
        about="Compare real images with each other in the six spaces of FDr6, once per dataset.",
        code="diffusability.stages.references:make_fdr6_reference",
        outputs=("normalisers.json", "references.safetensors"),
        labels=("dataset",),
        step=_MEASURED,
        memory=16_000,
        minutes=1440,
        gpu=True,
    ),
    "fisher_toy": Stage(
        version=2,
        rule="measure_fisher_toy",
        about="Compute one curve of FI, FIR and MMSE rate: by quadrature, or from a network.",
        code="diffusability.stages.fisher_toy:make",
        outputs=("curve.csv",),
        labels=("space", "network", "seed"),
        step=_SHARED,
        memory=4_000,
        minutes=60,
        resumes=True,
    ),
}


def stage_code(stage: str) -> tuple[str, ...]:
    """Return the modules whose code, with all they import, makes a stage's artifacts."""
    codes = [STAGES[stage].code]
    if stage in METRIC_GROUPS:
        codes.append(METRIC_GROUPS[stage].code)
    return tuple(dict.fromkeys(code.partition(":")[0] for code in codes))


@cache
def path_template(stage: str) -> str:
    """Return the directory of a stage's artifacts with its labels as `{wildcards}`."""
    return "/".join([RESULTS, stage, *_folders(stage), "{fingerprint}"])


def name_template(stage: str) -> str:
    """Return the name of a stage's artifacts, for logs, with its labels as `{wildcards}`."""
    return ".".join([*_folders(stage), "{fingerprint}"])


def _folders(stage: str) -> list[str]:
    folders = {
        "tokenizer_seed": "s{tokenizer_seed}",
        "seed": "s{seed}",
        "guidance": "guidance{guidance}{snapshot}",
    }
    labels = [label for label in STAGES[stage].labels if label != "snapshot"]
    return [folders.get(label, f"{{{label}}}") for label in labels]


def snapshot_label(step: int | None) -> str:
    """Return the label `snapshot` of samples of a model at an earlier step; None: the last."""
    return "" if step is None else f"-step{step}"


def control_label(control: str) -> str:
    """Return the label `backbone` of samples that no backbone made; no entry can be called so."""
    return f"control_{control}"
