"""Stage `fisher_toy`: the Fisher information of one toy distribution, exact or learned."""

from pathlib import Path

from diffusability.fisher.toy_curves import exact_curve, learned_curve
from diffusability.fisher.toy_networks import ToyLoss, toy_network
from diffusability.fisher.toy_oracles import toy_oracle
from diffusability.stages.inputs import Inputs
from diffusability.study.fisher_toy import ToyCurve
from diffusability.training.loop import train
from diffusability.training.run import Phase, Run


def make(inputs: Inputs, spec: ToyCurve, out: Path) -> None:
    """Write curve.csv, one row per noise variance."""
    job = inputs.job
    oracle = toy_oracle(spec.distribution)
    if spec.network is None or spec.samples is None:
        curve = exact_curve(oracle, spec.variances)
    else:
        points = oracle.sample(spec.network.points, inputs.generator("points")).float()
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
    curve.to_csv(out / "curve.csv", index=False)
