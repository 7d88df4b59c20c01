"""A diffusion training of seconds, for tests, and as a program that torchrun and signals can end.

`python -m tests.unit.small_diffusion NETWORK ... [--stop STEP SIGNAL]` trains each network with its
state in the folder of its name and, at the end, writes the weights beside it. The networks after
`--cut` are trained in double precision with two parts per process, with activation checkpointing,
and with values that are read every four steps, and named so.
"""

import argparse
import math
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusability.diffusion.load import backbone_spec, build_diffusion
from diffusability.diffusion.training_loss import diffusion_loss
from diffusability.errors import TrainingInterrupted
from diffusability.latents.mapped import MappedLatents, MappedTensor
from diffusability.latents.posteriors import Posteriors
from diffusability.training import loop
from diffusability.training.distributed import joined, processes
from diffusability.training.loop import Training
from diffusability.training.run import Phase, Run

IMAGES, SHAPE, CLASSES = 23, (2, 4, 4), 3
TRANSFORMER = {"width": 16, "depth": 1, "heads": 2}
BACKBONES = {
    "sit": {"arch": "sit", **TRANSFORMER},
    "lightningdit": {"arch": "lightningdit", **TRANSFORMER},
    "edm": {
        **{"arch": "unet", "process": "edm", "width": 8, "multipliers": (1, 2), "blocks": 1},
        "attention": (4,),
    },
}
NETWORKS = tuple(BACKBONES)
CPU = torch.device("cpu")
MEAN, STD = (0.5, -1.0), (2.0, 0.25)  # of the latents' channels


def small_latents(per_shard: int = 7, flip: bool = True) -> MappedLatents:
    """Latents of IMAGES images in shards of `per_shard`, with mirrored ones of their own."""
    generator = torch.Generator().manual_seed(5)

    def mapped(*shape: int) -> MappedTensor:
        values = torch.randn(IMAGES, *shape, generator=generator)
        return MappedTensor(values.split(per_shard), torch.float32)

    mean, logvar, foreground = mapped(*SHAPE), mapped(*SHAPE), mapped(*SHAPE[1:])
    mirrored = (mapped(*SHAPE), mapped(*SHAPE)) if flip else None
    return MappedLatents(mean, logvar, torch.arange(IMAGES) % CLASSES, foreground, mirrored)


def small_run(
    state: Path,
    network: str = "sit",
    dtype: torch.dtype = torch.float32,
    minutes: float | None = None,
    **train: object,
) -> Run:
    """A run of nine steps; its latents are read ahead, as those of a large set are."""
    options = {"steps": 9, "batch": 8, "lr": 0.01, "ema": 0.9, "clip": 1.0, "schedule": "cosine"}
    spec = backbone_spec(BACKBONES[network] | {"train": options | train})
    posteriors = Posteriors(small_latents(), torch.arange(1, IMAGES), CPU, held_bytes=0)
    model = build_diffusion(spec, SHAPE, CLASSES)
    model.network.initialise(torch.Generator().manual_seed(0))
    model.set_normalisation(torch.tensor(MEAN), torch.tensor(STD))
    model = model.to(dtype)
    # time and noise level are drawn in float32
    model.register_forward_pre_hook(lambda _, given: (given[0], given[1].to(dtype), given[2]))
    loss = diffusion_loss(model, posteriors, spec)
    return Run(
        name=network,
        spec=spec.train,
        modules={"diffusion": model},
        phases=[Phase("loss", list(model.parameters()), loss, divisible=True, complete=True)],
        images=len(posteriors),
        versions=posteriors.versions,
        seed=3,
        state=state,
        averaged="diffusion",
        minutes=minutes,
        checkpoint_seconds=0.0,
        checkpoint_share=math.inf,  # one after every step
        processes=processes(),
    )


def weights(training: Training) -> dict[str, Tensor]:
    """All weights of a run, the average included."""
    modules = {**training.run.modules, "average": training.averaged}
    return {f"{n}.{k}": v for n, m in modules.items() for k, v in m.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Equality to the bit."""
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def main() -> int:
    """Train; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", default=[])
    parser.add_argument("--cut", nargs="*", choices=NETWORKS, default=[])
    parser.add_argument("--compiled", nargs="*", choices=NETWORKS, default=[])
    parser.add_argument("--stop", nargs=2, metavar=("STEP", "SIGNAL"))
    parser.add_argument("--minutes", type=float)
    options = parser.parse_args()
    with joined("cpu") as together:
        for network in options.networks:
            training = Training(small_run(Path(network), network, minutes=options.minutes))
            training.resume()
            if options.stop:
                _stop(training, int(options.stop[0]), getattr(signal, options.stop[1]))
            try:
                training.go()
            except TrainingInterrupted as error:
                print(error, file=sys.stderr)
                return error.exit_code
            save_file(weights(training), f"{network}-{together.rank}.safetensors")
        loop.steps_per_reading = lambda device, parts: 4  # as if this were a GPU
        for how, networks, execution in (
            ("cut", options.cut, {"activation_checkpointing": True}),
            ("compiled", options.compiled, {"compile": True}),
        ):
            for network in networks:
                run = small_run(
                    Path(network, how), network, torch.float64, accumulation=2, **execution
                )
                training = Training(run)
                training.go()
                save_file(weights(training), f"{network}-{how}-{together.rank}.safetensors")
    return 0


def _stop(training: Training, step: int, number: signal.Signals) -> None:
    """Let the process send itself a signal before it takes the step."""
    take = training._take_step

    def counted() -> dict[str, float]:
        if training.step == step:
            os.kill(os.getpid(), number)
        return take()

    training._take_step = counted


if __name__ == "__main__":
    sys.exit(main())
