"""Pieces in threads: the results of a loop, in order, and torch left as it was."""

import threading

import pytest
import torch

from diffusability.metrics.thread_map import thread_map

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_the_threads_stay_as_they_were(threads: int):
    assert thread_map(lambda x: x**2, range(50), CPU) == [x**2 for x in range(50)]
    assert torch.get_num_threads() == threads
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [threads]


def test_as_many_pieces_run_at_once_as_torch_has_threads_each_in_one(threads: int):
    together = threading.Barrier(threads, timeout=10)  # breaks unless so many wait at it at once

    def piece(_: int) -> int:
        together.wait()
        return torch.get_num_threads()

    assert thread_map(piece, range(2 * threads), CPU) == [1] * (2 * threads)


def test_on_a_gpu_pieces_run_one_after_another_in_the_callers_thread(threads: int):
    found = thread_map(lambda _: threading.get_ident(), range(4), torch.device("cuda"))
    assert set(found) == {threading.get_ident()}


def test_an_error_is_raised_and_the_rest_not_begun(threads: int):
    begun = []

    def piece(x: int) -> None:
        begun.append(x)
        if x == 2:
            raise ValueError("piece 2")
        threading.Event().wait(0.01)

    with pytest.raises(ValueError, match="piece 2"):
        thread_map(piece, range(200), CPU)
    assert len(begun) < 100
    assert torch.get_num_threads() == threads
