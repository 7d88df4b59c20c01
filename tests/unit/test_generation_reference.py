"""Real images of a large dataset: their features once for all sets of samples, some compared."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diffusability.artifacts.job import Job
from diffusability.data.load import data_source, load_dataset
from diffusability.metrics.precision_recall import measure_precision_recall
from diffusability.stages.features import Extractor
from diffusability.stages.inputs import Inputs
from diffusability.stages.references import load_reference
from diffusability.study.planning.plan import Plan
from diffusability.study.preflight.cost import Costs
from tests.unit.study_run import measurements, plan_of, run_plan

CELL = "generation/conv-base/s0/sit-a/s0/guidance1"


def study(count: int = 40, **generation: Any) -> Plan:
    """The smoke study of one tokenizer and two sets of samples."""
    return plan_of(
        {
            "metrics": {"generation": {"reference": "train", **generation}},
            "sampling": {"guidance": [1.0, 1.5], "count": count},
            "select": {"tokenizers": ["conv-base"]},
        }
    )


def names(plan: Plan) -> dict[str, str]:
    """Return the fingerprints of a plan by stage and name."""
    return {f"{a.stage}/{a.name}": a.fingerprint for a in plan}


def test_one_reference_serves_all_samples_and_renames_nothing_else() -> None:
    plain, shared = study(), study(compared=50)
    changed = {key for key, value in names(shared).items() if names(plain).get(key) != value}
    assert changed == {"generation_reference/digits", CELL, CELL + ".5"}
    (reference,) = shared.of_stage("generation_reference")
    assert set(reference.upstream) == {"dataset", "extractor"}
    assert all(a.upstream["reference"] is reference for a in shared.of_stage("generation"))
    (resampled,) = study(count=41, compared=50).of_stage("generation_reference")
    assert resampled.fingerprint == reference.fingerprint


def test_compared_with_all_images_nothing_changes(workplace: Path) -> None:
    alone = measurements(run_plan(study(), "generation")[CELL])
    made = run_plan(study(compared=10**6), "generation")
    assert measurements(made[CELL]) == alone


def test_some_are_compared_and_the_distance_is_of_all(workplace: Path) -> None:
    alone = measurements(run_plan(study(), "generation")[CELL])
    plan = study(compared=50)
    made = run_plan(plan, "generation")
    shared = measurements(made[CELL])
    fd = "generation.fd_judge"
    assert shared[fd]["value"] == pytest.approx(alone[fd]["value"], rel=1e-6)
    assert shared[fd]["options"]["reference_count"] == alone[fd]["options"]["reference_count"]
    kernel = "generation.kernel_distance_judge"
    assert shared[kernel]["value"] != alone[kernel]["value"]
    assert shared["generation.recall_judge"]["options"]["real_count"] == 50

    # by hand: every 28.8th training image in the order of classes
    (artifact,) = plan.of_stage("generation_reference")
    job = Job.from_json(artifact.job())
    data = load_dataset(job.input("dataset"))
    split = data.split("train")
    by_class = sorted(split.tolist(), key=lambda image: int(data.labels[image]))
    chosen = torch.tensor(sorted(by_class[k * len(split) // 50] for k in range(50)))
    vectors = Extractor(Inputs(job), "judge").of_dataset(data, chosen).vectors
    assert torch.equal(load_reference(Path(artifact.path)).vectors, vectors)
    samples = load_file(made[CELL.replace("generation", "samples")] / "shard-00000.safetensors")
    found = measure_precision_recall(
        real=vectors,
        generated=Extractor(Inputs(job), "judge")(samples["images"]).vectors,
        extractor="judge",
        generator=torch.Generator().manual_seed(0),
    )
    assert {m.metric: m.value for m in found} == {
        m.metric: shared[m.metric]["value"] for m in found
    }


def test_only_the_reference_pays_for_the_real_images() -> None:
    def seconds(plan: Plan, stage: str) -> float:
        found = Costs(plan.study).work(plan.of_stage(stage)[0]).seconds
        assert found is not None
        return found

    dear, cheap = seconds(study(), "generation"), seconds(study(compared=50), "generation")
    once = seconds(study(compared=50), "generation_reference")
    (dataset,) = study().of_stage("dataset")
    train = len(data_source(dataset.spec).load().split("train"))
    assert dear / cheap == pytest.approx((40 + train) / 40)
    assert once / cheap == pytest.approx((50 + train) / 40)
