"""One real Slurm for all tests of this folder, or the reason why there is none."""

from collections.abc import Iterator

import pytest

from tests.full.slurm.cluster import Cluster, running, why_not


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with an idle node."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"the real Slurm is left out: {reason}")
    with running(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster
