"""The model of the study file: its schema and its page of options are current and complete."""

import json
from pathlib import Path

import pytest

from diffusability.cli import main
from diffusability.study.core.spec import Spec, TrainSpec
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.reading.load import read_yaml
from diffusability.study.reading.option_pages import (
    COMMAND,
    ENTRIES,
    GENERATED,
    METRICS,
    OPTIONS,
    SCHEMA,
    metrics_page,
    options_page,
)
from diffusability.study.reading.study_file import StudyFile, description, schema, written
from diffusability.study.study import Study

ROOT = Path(__file__).parents[2]
STUDIES = [ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]
STUDIES = [file for file in STUDIES if "fisher_toy" not in file.name]


@pytest.mark.parametrize(
    ("file", "text"), [(SCHEMA, schema), (OPTIONS, options_page)], ids=[SCHEMA, OPTIONS]
)
def test_generated_files_are_current(file: str, text) -> None:
    assert (ROOT / "docs" / file).read_text(encoding="utf-8") == text(), f"run: {COMMAND}"


def test_the_page_of_metrics_is_current() -> None:
    page = (ROOT / "docs" / METRICS).read_text(encoding="utf-8")
    assert GENERATED in page
    assert page == metrics_page(page), f"run: {COMMAND}"


def test_the_page_of_metrics_has_definition_equation_unit_and_direction() -> None:
    page = metrics_page("# Written by hand\n\n" + GENERATED)
    assert page.startswith("# Written by hand\n")
    assert "\n## Velocity ambiguity\n\nVelocity irreducible variance (VIV): how much" in page
    assert "the published estimator. **Headline** | 1 | lower |\n" in page
    assert r"\mathrm{VIV}_k = \frac{\pi}{2} \sqrt{\tau_k - A_k}" in page
    assert "| `trajectory.angle` | mean angle between consecutive steps | deg | lower |" in page
    for name in METRIC_GROUPS:
        assert f"| `{name}." in page


def test_editors_see_one_paragraph_of_a_metric() -> None:
    definitions = json.loads(schema())["$defs"]
    assert definitions["VelocityMetric"]["description"] == "Velocity irreducible variance (VIV)."


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_study_fits_the_schema(file: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(schema()))
    written_study = json.loads(json.dumps(read_yaml(file)))
    assert [error.message for error in validator.iter_errors(written_study)] == []


def test_the_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema()


def test_the_schema_refuses_an_unknown_key() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(schema()))
    study = json.loads(json.dumps(read_yaml(ROOT / "studies" / "smoke.yaml")))
    study["tokenizers"]["conv-base"]["ratoi"] = 3
    assert not validator.is_valid(study)


def test_it_has_every_key_of_a_study_and_the_bases() -> None:
    assert set(StudyFile.model_fields) == {*Study.model_fields, "bases"}


def models() -> list[type[Spec]]:
    """Return every model that a part of a study file is validated by."""
    found = [m for _, _, registry in ENTRIES for m in registry.models()]
    found += [TrainSpec, Study]
    for model in found:
        for field in model.model_fields.values():
            for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(kind, type) and issubclass(kind, Spec) and kind not in found:
                    found.append(kind)
    return list(dict.fromkeys(found))


def test_every_key_is_described() -> None:
    lacking = {
        f"{model.__name__}.{key}"
        for model in models()
        for key, field in written(model).items()
        if not description(field)
    }
    assert lacking == set()
