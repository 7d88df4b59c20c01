"""Run independent pieces of a metric in parallel, in as many threads as torch may use."""

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

    Torch factorises a batch of small matrices sequentially. Here whole pieces run in parallel, one
    thread each, so the results are bitwise equal for any ``torch.get_num_threads``.

    Args:
        function: processes one piece with torch, which releases the GIL.
        items: the pieces.
        device: where the tensors are; on a GPU the pieces run one after another.

    Raises:
        The first exception of ``function``, in the order of the items; later items do not start.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [function(item) for item in items]
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # a worker's setting applies to threads that start later
