"""Whatever a study file holds, it is planned or refused with a sentence: never a traceback."""

import contextlib
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusability.errors import StudyError
from diffusability.study.reading.yaml_file import read_yaml
from tests.conftest import REPOSITORY
from tests.unit.fuzzed_studies import plan_or_refuse, studies

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
SMOKE = (REPOSITORY / "studies" / "smoke.yaml").read_text()
PIECES = ["0100", "1:30", "yes", "&a", "*a", "<<:", "!!binary", "!!python/object:os.x", "{", "]"]
PIECES += ["? ", "- ", ": ", "|", "\t", "'", '"', "---", "%YAML 9", "2001-01-01", "9" * 5000, "\0"]


def test_a_study_is_planned_or_refused() -> None:
    """Always the same studies; others are drawn by tests/full/test_study_fuzz.py."""
    planned = []

    @settings(max_examples=50, deadline=None, suppress_health_check=SLOW, derandomize=True)
    @given(studies())
    def ask(study: Any) -> None:
        planned.append(plan_or_refuse(study))

    ask()
    assert 0 < sum(planned) < len(planned)  # some of each


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, len(SMOKE)), st.sampled_from(PIECES)), min_size=1))
def test_a_text_is_read_or_refused(tmp_path: Path, inserted: list[tuple[int, str]]) -> None:
    text = SMOKE
    for at, piece in inserted:
        text = text[:at] + piece + text[at:]
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with contextlib.suppress(StudyError):
        assert isinstance(read_yaml(file), dict)
