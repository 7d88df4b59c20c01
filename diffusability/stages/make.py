"""Make one artifact: find its code, give it typed inputs and options."""

from pathlib import Path
from typing import Any, assert_never, get_type_hints

from pydantic import TypeAdapter

from diffusability.artifacts.job import Job
from diffusability.lazy import load_code
from diffusability.metrics.measurement import flagged
from diffusability.stages.inputs import Inputs
from diffusability.stages.measurements import Found, write_measurements
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.metrics.metric_group import MetricOptions, Tensor
from diffusability.study.planning.stages import STAGES


def make(job: Job, out: Path) -> None:
    """Write the files of the job's artifact into the folder `out`.

    A stage is a function `make(inputs, spec, out)`, which returns what it measured, if it measures.
    The annotation of `spec` says what the job's options are validated as; for a metric group it is
    the model that the group was declared with.
    """
    code = load_code(STAGES[job.stage].code)
    group = METRIC_GROUPS.get(job.stage) if job.stage in METRIC_GROUPS else None
    options = get_type_hints(code, include_extras=True)["spec"] if group is None else group.options
    found = code(Inputs(job), TypeAdapter(options).validate_python(job.options), out)
    if found is not None:
        write_measurements(out, *found)


def plain_metric(inputs: Inputs, spec: MetricOptions, out: Path) -> Found:
    """Return the measurements of any group whose declaration says what tensors it `reads`.

    Its function takes them in that order, then `generator` where one is declared, and all options
    but the split by their names. It returns the measurements, or them and (metric, reason) pairs of
    what is not applicable.
    """
    group = METRIC_GROUPS[inputs.stage]
    chosen, latents = inputs.data.split(spec.split), inputs.latents

    def tensor(name: Tensor) -> Any:
        match name:
            case "mean" | "logvar":
                return getattr(latents, name)[chosen]  # (N, C, h, w)
            case "labels":
                return latents.labels[chosen]  # (N,)
            case "foreground":
                return inputs.foreground(chosen)[0]  # (N, h, w)
            case _:
                assert_never(name)

    options = {name: getattr(spec, name) for name in type(spec).model_fields if name != "split"}
    if group.generator:
        options["generator"] = inputs.generator(group.generator)
    found = load_code(group.code)(*map(tensor, group.reads), **options)
    measurements, without = found if isinstance(found, tuple) else (found, ())
    flags = inputs.foreground(chosen)[1] if "foreground" in group.reads else ()
    return flagged(measurements, *flags, *inputs.rounding(chosen)), without
