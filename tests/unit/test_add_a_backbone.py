"""A backbone is added in two files, as docs/extending.md says: its options and its network."""

import json
from pathlib import Path

from tests.unit.extended_package import ExtendedPackage

OPTIONS = '''
@BACKBONES.add("diffusability.diffusion.convnet:LatentConvNet")
class ConvNetBackbone(Backbone):
    """Convolutions at one resolution."""

    arch: Literal["convnet"]
    width: PositiveInt = Field(16, description="channels")
    depth: PositiveInt = Field(2, description="convolutions")
'''

CODE = '''
"""Convolutions at one resolution, as a diffusion network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusability.diffusion.network import LatentNetwork, TimestepEmbedding
from diffusability.study.entries.backbone import ConvNetBackbone


class LatentConvNet(LatentNetwork[ConvNetBackbone]):
    """x + conv(silu(x + condition)) at the latent's resolution."""

    def __init__(
        self, spec: ConvNetBackbone, latent_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        """Build the layers on the meta device; see `LatentNetwork`."""
        super().__init__(spec, latent_shape, num_classes)
        with torch.device("meta"):
            self.start = nn.Conv2d(self.latent_channels, spec.width, 1)
            self.time = TimestepEmbedding(spec.width)
            self.label = nn.Embedding(num_classes + 1, spec.width)
            self.layers = nn.ModuleList(
                nn.Conv2d(spec.width, spec.width, 3, padding=1) for _ in range(spec.depth)
            )
            self.end = nn.Conv2d(spec.width, self.latent_channels, 1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity (B, C, H, W) at x; see `LatentNetwork.forward`."""
        condition = (self.time(t) + self.label(y))[:, :, None, None]  # (B, D, 1, 1)
        x = self.start(x)
        for layer in self.layers:
            x = x + layer(F.silu(x + condition))
        return self.end(x)
'''

PROGRAM = """
import json
import diffusability
from tests.unit.study_run import plan_of, run_plan

backbone = {"arch": "convnet", "width": 8, "train": {"steps": 2}}
plan = plan_of({
    "backbones": {"plain": backbone},
    "select": {"tokenizers": ["conv-base"], "backbones": ["plain"], "seeds": [0]},
})
(artifact,) = plan.of_stage("diffusion")
made = run_plan(plan, "samples")
history = (made[f"diffusion/{artifact.name}"] / "history.csv").read_text().splitlines()
(samples,) = (path for name, path in made.items() if name.startswith("samples/"))
print(json.dumps({
    "package": diffusability.__file__,
    "spec": artifact.spec,
    "rows": len(history) - 1,
    "samples": json.loads((samples / "samples.json").read_text())["images"],
}))
"""


def test_two_files_make_a_backbone(tmp_path: Path) -> None:
    package = ExtendedPackage(tmp_path)
    package.insert("study/entries/backbone.py", OPTIONS.strip("\n"), before="BackboneSpec = ")
    package.add("diffusion/convnet.py", CODE.lstrip("\n"))
    assert len(package.changed()) == 2
    found = json.loads(package.run(PROGRAM).splitlines()[-1])
    assert Path(found["package"]).is_relative_to(tmp_path)
    assert found["spec"]["arch"] == "convnet"
    assert (found["spec"]["width"], found["spec"]["depth"], found["spec"]["time"]) == (
        *(8, 2),
        "uniform",
    )
    assert found["rows"] >= 1
    assert found["samples"] == 40
