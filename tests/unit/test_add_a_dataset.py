"""Adding a kind of dataset touches two files: its options and its source."""

from pathlib import Path

from tests.unit.package_copy import append, package_copy, run

OPTIONS = '''

@DATASETS.add("diffusability.data.stripes:Stripes")
class StripesDataset(Dataset):
    """Stripes of random direction."""

    kind: Literal["stripes"] = Field(description="stripes of random direction")
    size: Literal[8, 16] = Field(8, description="side of the square images in pixels")
    count: PositiveInt = Field(100, description="images in all; every fifth is held out")

    @property
    def num_classes(self) -> int:
        """Rows and columns."""
        return 2

    def counts(self) -> ImageCounts:
        """A fifth is held out."""
        return ImageCounts(self.count - self.count // 5, self.count // 5)
'''
SOURCE = '''"""Stripes: rows or columns of two colours."""

import torch

from diffusability.data.images import ImageSet
from diffusability.data.load import DataSource
from diffusability.study.entries.dataset import StripesDataset


class Stripes(DataSource[StripesDataset]):
    """Stripes, drawn anew by every job."""

    def load(self) -> ImageSet:
        """Return all images."""
        size, numbers = self.spec.size, torch.arange(self.spec.count)
        row = (torch.arange(size) % 2 * 255).to(torch.uint8)
        rows = row.view(1, 1, 1, size).expand(self.spec.count, 3, size, size)
        labels = numbers % 2
        images = torch.where(labels.view(-1, 1, 1, 1) == 0, rows, rows.mT)
        return ImageSet(images, labels, images[:, 0] > 0, numbers % 5 < 1, 2)
'''
USE = """
from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.errors import StudyError
from diffusability.stages.make import make
from diffusability.study.reading.load import load_study
from diffusability.study.planning.plan import Plan

over = {"datasets": {"mine": {"kind": "stripes"}}, "select": {"dataset": "mine"}}
plan = Plan(load_study(SMOKE, over))
(artifact,) = plan.of_stage("dataset")
job = Job.from_json(artifact.job())
with job.writing() as folder:
    make(job, folder)
print(len(load_dataset(job.path).labels), plan.study.dataset.counts().val)
try:
    load_study(SMOKE, {"datasets": {"mine": {"kind": "stripe"}}})
except StudyError as error:
    print(error)
"""


def test_two_files_make_a_dataset(tmp_path: Path) -> None:
    package = package_copy(tmp_path)
    append(package / "study" / "entries" / "dataset.py", OPTIONS)
    (package / "data" / "stripes.py").write_text(SOURCE)
    output = run(tmp_path, USE)
    assert output.startswith("100 20\n")
    assert "unknown kind `stripe` (did you mean `stripes`?)" in output
