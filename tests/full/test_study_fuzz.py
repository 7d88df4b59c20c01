"""The fuzzing of tests/unit/test_study_fuzz.py with many more studies, other ones in every run."""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings

from tests.unit.fuzzed_studies import plan_or_refuse, studies

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def test_many_studies_are_planned_or_refused() -> None:
    seen: Counter[bool] = Counter()

    @settings(max_examples=600, deadline=None, suppress_health_check=SLOW)
    @given(studies())
    def search(study: Any) -> None:
        seen[plan_or_refuse(study)] += 1

    search()
    print(f"tried {seen.total()}, planned {seen[True]}, refused {seen[False]}")
    assert min(seen.values()) > 10  # both happen
