"""Independent pieces of a metric computed in as many threads as torch was given."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_map(
    function: Callable[[Item], Result], items: Iterable[Item], device: torch.device
) -> list[Result]:
    """Apply a function to every item, one thread each, and return the results in order.

    The factorisations of a batch of small matrices run one after another within torch; here whole
    pieces run side by side, each in one thread, so the results are the same to the bit whatever
    the number of threads (``torch.get_num_threads``).

    Args:
        function: computes with torch, which releases the interpreter's lock, on one piece.
        items: the pieces.
        device: where the tensors are; on a GPU the pieces run one after another.

    Raises:
        Whatever ``function`` raises first, in the order of the items; the rest is not begun.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [function(item) for item in items]
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what a worker sets holds for threads that start later
