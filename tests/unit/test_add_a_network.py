"""A tokenizer's network is added in two files: its options and its code."""

import json
from pathlib import Path

from tests.unit.extended_package import ExtendedPackage

OPTIONS = '''
@NETWORKS.add("diffusability.tokenizers.patchwise:PatchwiseAutoencoder")
class PatchwiseNetwork(Network):
    """One linear map of each patch, and one back."""

    arch: Literal["patchwise"]
    width: PositiveInt = Field(8, description="channels between image and latent")
'''

CODE = '''
"""The autoencoder of a patch by itself."""

import torch
from torch import Tensor, nn

from diffusability.study.entries.network import ImageShape, PatchwiseNetwork
from diffusability.tokenizers.interface import NetworkTokenizer
from diffusability.tokenizers.posterior import Posterior


class PatchwiseAutoencoder(NetworkTokenizer):
    """Strided convolutions whose windows do not overlap."""

    def __init__(self, spec: PatchwiseNetwork, image: ImageShape) -> None:
        """Build the layers on the meta device; `initialise` or loaded weights fill them."""
        super().__init__(spec, image)
        factor = spec.factor
        with torch.device("meta"):
            self.first = nn.Conv2d(image.channels, spec.width, factor, stride=factor)
            self.to_moments = nn.Conv2d(spec.width, 2 * spec.channels, 1)
            self.from_latent = nn.Conv2d(spec.channels, spec.width, 1)
            self.last = nn.Conv2d(spec.width, image.channels * factor**2, 1)

    @property
    def encoder_last_weight(self) -> Tensor:
        """Weight of the layer that emits the moments."""
        return self.to_moments.weight

    @property
    def decoder_last_weight(self) -> Tensor:
        """Weight of the layer that emits the pixels."""
        return self.last.weight

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the posterior of the latents; see `Tokenizer.encode`."""
        return Posterior.from_moments(self.to_moments(self.first(images)))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoded images; see `Tokenizer.decode`."""
        return nn.functional.pixel_shuffle(self.last(self.from_latent(latents)), self.factor)
'''

PROGRAM = """
import json
from tests.unit.study_run import plan_of, run_plan

network = {"arch": "patchwise", "factor": 4, "channels": 3}
entry = {"network": network, "method": "baseline", "train": {"steps": 2}}
plan = plan_of({"tokenizers": {"patches": entry}, "select": {"tokenizers": ["patches"]}})
(artifact,) = plan.of_stage("tokenizer")
made = run_plan(plan, "latents")
(latents,) = (path for name, path in made.items() if name.startswith("latents/"))
print(json.dumps({
    "network": artifact.spec["network"],
    "family": plan.study.tokenizers["patches"].family,
    "latents": (latents / "latents.json").exists(),
}))
"""


def test_two_files_make_a_network(tmp_path: Path) -> None:
    package = ExtendedPackage(tmp_path)
    package.insert("study/entries/network.py", OPTIONS.strip("\n"), before="NetworkSpec = ")
    package.add("tokenizers/patchwise.py", CODE.lstrip("\n"))
    assert len(package.changed()) == 2
    found = json.loads(package.run(PROGRAM).splitlines()[-1])
    assert found["network"] == {"arch": "patchwise", "factor": 4, "channels": 3, "width": 8}
    assert found["family"] == "patchwise-f4d3"
    assert found["latents"]
