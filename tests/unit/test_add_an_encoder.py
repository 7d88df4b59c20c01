"""Adding a kind of encoder touches two files: its options and its code."""

from pathlib import Path

from tests.unit.package_copy import append, package_copy, run

OPTIONS = '''

@ENCODERS.add("diffusability.encoders.colours:Colours")
class ColourEncoder(TrainedEncoder):
    """Trained to tell the mean brightness."""

    kind: Literal["brightness"] = Field(description="trained to tell the mean brightness")
    scale: float = Field(1.0, gt=0, description="of the brightness that is told")
'''
CODE = '''"""Training of an encoder on the mean brightness of its images."""

from collections.abc import Callable

from torch import Tensor

from diffusability.encoders.pretext import Network, Pretext
from diffusability.study.entries.encoder import ColourEncoder
from diffusability.training.run import Batch, Losses


class Colours(Pretext[ColourEncoder]):
    """Encoders of kind brightness."""

    loss_name = "brightness_error"

    def loss(
        self, network: Network, images: Callable[[Batch], Tensor], labels: Tensor
    ) -> Callable[[Batch], Losses]:
        """Return the squared error of the first feature."""

        def loss(batch: Batch) -> Losses:
            shown = images(batch)
            wanted = self.spec.scale * shown.mean(dim=(1, 2, 3))
            error = network.features(shown)[:, 0] - wanted
            return Losses(error.square().mean(), {})

        return loss
'''
USE = """
from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.encoders.load import load_encoder
from diffusability.errors import StudyError
from diffusability.stages.make import make
from diffusability.study.preflight.cost import Costs
from diffusability.study.reading.load import load_study
from diffusability.study.planning.plan import Plan

entry = {"kind": "brightness", "width": 4, "features": 6, "train": {"steps": 2}}
plan = Plan(load_study(SMOKE, {"encoders": {"judge": entry | {"seed": 0, "factor": 2}}}))
folders = {}
for artifact in plan.of_stage("dataset", "encoder"):
    if artifact.labels.get("encoder") == "glyph":
        continue
    job = Job.from_json(artifact.job())
    with job.writing() as folder:
        make(job, folder)
    folders[artifact.stage] = job.path
    print(artifact.stage, Costs(plan.study).work(artifact).macs is not None)
data = load_dataset(folders["dataset"])
print(load_encoder(folders["encoder"], data, "cpu").grid_channels)
try:
    load_study(SMOKE, {"encoders": {"x": {"kind": "brightnes"}}})
except StudyError as error:
    print(error)
"""


def test_two_files_make_an_encoder(tmp_path: Path) -> None:
    package = package_copy(tmp_path)
    append(package / "study" / "entries" / "encoder.py", OPTIONS)
    (package / "encoders" / "colours.py").write_text(CODE)
    output = run(tmp_path, USE)
    assert "encoder True\n6\n" in output
    assert "unknown kind `brightnes` (did you mean `brightness`?)" in output
