"""The code of docs/extending.md works as it is printed: a reader needs that page alone."""

import json
import re
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.unit.extended_package import ExtendedPackage

BLOCK = re.compile(r"^```python\n(# diffusability/.*?)^```", re.MULTILINE | re.DOTALL)
BEFORE = {  # what a declaration is inserted before; None: at the end
    "study/metrics/groups.py": "class _Metrics(Spec):",
    "study/entries/regularizer.py": "RegularizerSpec = ",
    "study/entries/backbone.py": "BackboneSpec = ",
    "study/entries/dataset.py": None,
    "study/entries/encoder.py": None,
}
TABLE = "study/planning/tables.py"
DRAWN = ("study/planning/figures.py", "figures/extremes.py")  # the page leaves the drawing out
PROGRAM = """
import json
import pandas as pd
import torch
from diffusability.analysis.extremes import extremes
from diffusability.diffusion.load import backbone_spec, build_diffusion
from diffusability.metrics.kurtosis import measure_kurtosis
from diffusability.study.entries.dataset import DATASETS
from diffusability.study.entries.encoder import ENCODERS
from diffusability.study.reading.option_pages import GENERATED, metrics_page
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.entries.regularizer import REGULARIZERS
from diffusability.study.planning.stages import STAGES
from diffusability.study.planning.tables import TABLES

normal = torch.randn(4000, 2, 4, 4, generator=torch.Generator().manual_seed(0))
(excess,) = measure_kurtosis(normal)
convnet = backbone_spec({"arch": "convnet", "train": {"steps": 1}})
network = build_diffusion(convnet, (2, 4, 4), 3).network
network.initialise(torch.Generator().manual_seed(0))
velocity = network(normal[:5], torch.rand(5), torch.zeros(5, dtype=torch.long))
table = pd.DataFrame({"metric": "m", "tokenizer": ["a", "b"], "value": [2.0, 1.0]})
print(json.dumps({
    "excess": [excess.value, excess.stderr],
    "rule": STAGES["kurtosis"].rule,
    "row": "| `kurtosis.excess` | mean over images of $z^4 - 3$ |" in metrics_page(GENERATED),
    "velocity": list(velocity.shape),
    "kinds": ["tv" in REGULARIZERS, "stripes" in DATASETS, "rotation" in ENCODERS],
    "code": [
        found.code(found["stripes" if found is DATASETS else "rotation"].model_construct()).__name__
        for found in (DATASETS, ENCODERS)
    ],
    "table": TABLES["extremes"].made_from,
    "extremes": extremes(table).iloc[0].tolist(),
}))
"""


def test_the_code_of_the_page_works_as_printed(tmp_path: Path) -> None:
    package = ExtendedPackage(tmp_path)
    for block in BLOCK.findall((REPOSITORY / "docs" / "extending.md").read_text()):
        heading, _, code = block.partition("\n")
        file = heading.removeprefix("# diffusability/").partition(",")[0]
        if file in DRAWN:
            continue
        path = package.folder / "diffusability" / file
        if file == TABLE:
            text = path.read_text()
            assert text.count("\n}\n") == 1
            path.write_text(text.replace("\n}\n", f"\n{code}}}\n"))
        elif file not in BEFORE:
            package.add(file, code)
        elif BEFORE[file] is None:
            path.write_text(f"{path.read_text()}\n\n{code}")
        else:
            package.insert(file, code, before=str(BEFORE[file]))
    assert len(package.changed()) == 12  # two files for each of six additions
    found = json.loads(package.run(PROGRAM))
    value, error = found["excess"]
    assert abs(value) < 4 * error < 0.2  # of normal latents: 0
    assert found["rule"] == "measure_kurtosis"
    assert found["row"]
    assert found["velocity"] == [5, 2, 4, 4]
    assert found["kinds"] == [True, True, True]
    assert found["code"] == ["Stripes", "Rotation"]
    assert found["table"] == ["measurements"]
    assert found["extremes"] == ["m", "b", "a"]
