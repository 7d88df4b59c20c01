"""A regularizer is added in two files, as docs/extending.md says: its options and its code."""

import json
from pathlib import Path

from tests.unit.extended_package import ExtendedPackage

OPTIONS = '''
@REGULARIZERS.add(f"{CODE}.variation:TotalVariation")
class Variation(Regularizer):
    """Total variation of the latents."""

    method: Literal["tv"]
    weight: NonNegativeFloat = Field(0.1, description="before the adaptive factor")
'''

CODE = '''
"""tv: total variation of the latents."""

from torch import Tensor

from diffusability.study.entries.regularizer import Variation
from diffusability.tokenizers.posterior import Posterior
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer


class TotalVariation(Regularizer[Variation, None]):
    """Mean absolute difference of neighbouring cells, along both axes."""

    def penalties(
        self, posterior: Posterior, latents: Tensor, features: Tensor | None
    ) -> list[Penalty]:
        """Return the loss on the posterior sample; see `Regularizer.penalties`."""
        rows = (latents[:, :, 1:] - latents[:, :, :-1]).abs().mean()
        columns = (latents[:, :, :, 1:] - latents[:, :, :, :-1]).abs().mean()
        return [Penalty("tv", rows + columns, self.options.weight)]
'''

PROGRAM = """
import json
import diffusability
from tests.unit.study_run import plan_of, run_plan

entry = {"base": "conv-f2d4", "method": "tv", "weight": 0.2}
plan = plan_of({"tokenizers": {"conv-tv": entry}, "select": {"tokenizers": ["conv-tv"]}})
(artifact,) = plan.of_stage("tokenizer")
made = run_plan(plan, "tokenizer")
history = (made[f"tokenizer/{artifact.name}"] / "history.csv").read_text().splitlines()
print(json.dumps({
    "package": diffusability.__file__,
    "spec": artifact.spec["regularizer"],
    "cluster": plan.study.tokenizers["conv-tv"].cluster,
    "history": [history[0].split(","), history[1].split(",")],
}))
"""


def test_two_files_make_a_regularizer(tmp_path: Path) -> None:
    package = ExtendedPackage(tmp_path)
    package.insert("study/entries/regularizer.py", OPTIONS.strip("\n"), before="RegularizerSpec = ")
    package.add("tokenizers/regularizers/variation.py", CODE.lstrip("\n"))
    assert len(package.changed()) == 2
    found = json.loads(package.run(PROGRAM).splitlines()[-1])
    assert Path(found["package"]).is_relative_to(tmp_path)
    assert found["spec"] == {"method": "tv", "weight": 0.2}
    assert found["cluster"] == "tv"
    first = dict(zip(*found["history"], strict=True))
    assert float(first["tv"]) > 0
    assert float(first["tv_factor"]) > 0


def test_a_regularizer_without_code_is_an_error(tmp_path: Path) -> None:
    package = ExtendedPackage(tmp_path)
    package.insert("study/entries/regularizer.py", OPTIONS.strip("\n"), before="RegularizerSpec = ")
    program = PROGRAM.replace(
        'made = run_plan(plan, "tokenizer")',
        "try:\n    run_plan(plan, 'tokenizer')\n"
        "except diffusability.errors.DiffusabilityError as error:\n"
        "    print(error)\nraise SystemExit",
    )
    assert "regularizers.variation:" in (said := package.run(program))
    assert "declared, but not found" in said
