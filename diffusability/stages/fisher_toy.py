"""Stage `fisher_toy`: the Fisher information of one toy distribution, exact or learned."""

from pathlib import Path

import torch

from diffusability.artifacts.job import Job
from diffusability.fisher.toy_curves import exact_curve, learned_curve
from diffusability.fisher.toy_networks import ToyLoss, toy_network
from diffusability.fisher.toy_oracles import toy_oracle
from diffusability.study.fisher_toy import ToyCurve
from diffusability.training.loop import Phase, Run, train


def make(job: Job, folder: Path) -> None:
    """Write curve.csv, one row a noise variance."""
    spec = ToyCurve.model_validate(job.spec)
    oracle = toy_oracle(spec.distribution)
    if spec.network is None or spec.samples is None:
        curve = exact_curve(oracle, spec.variances)
    else:
        generator = torch.Generator().manual_seed(job.stream("points"))
        points = oracle.sample(spec.network.points, generator).float()
        model = toy_network(spec.network, points, job.stream("weights"))
        training = train(
            Run(
                name=job.name,
                spec=spec.network.train,
                modules={"network": model},
                phases=[Phase("loss", list(model.parameters()), ToyLoss(model, points))],
                images=len(points),
                seed=job.stream("steps"),
                state=job.state,
                averaged="network",
                minutes=job.minutes_left,
            )
        )
        # derivatives at small noise are differences of nearly equal numbers
        model.load_state_dict(training.averaged.state_dict())
        model.double().eval().requires_grad_(False)
        curve = learned_curve(
            model.denoiser(),
            oracle,
            spec.variances,
            samples=spec.samples,
            seed=job.stream("draws"),
        )
    curve.to_csv(folder / "curve.csv", index=False)
