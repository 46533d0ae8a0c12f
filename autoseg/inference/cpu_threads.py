"""Runs the slices of a batch on the cores of a CPU, each core on its own slices.

Owns: `Cores`, a pool of threads in which every torch operation runs on one core.

Prediction divides the slices of a batch among these threads. torch's own threads would divide each of a few thousand
small operations, which gains little and becomes very slow when other programs use a core. Training, whose backward pass
loses more to Python's lock, uses processes (`distributed/local_ranks.py`).
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cores:
    """The cores that work on a batch.

    Attributes:
        num: The number of cores; 1 on a GPU, where a batch is not divided.
        pool: The threads, or None with a single core.
    """

    num: int
    pool: ThreadPoolExecutor | None

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call the function for each item in parallel; the results are in the order of the items."""
        if self.pool is None or len(items) < 2:
            return [function(item) for item in items]
        return list(self.pool.map(function, items))

    def parts(self, num_slices: int) -> list[slice]:
        """Divide a batch into even parts, at most one per core; none is empty."""
        count = max(1, min(self.num, num_slices))
        bounds = [round(i * num_slices / count) for i in range(count + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


ONE_CORE = Cores(num=1, pool=None)


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Cores]:
    """Return the cores that torch may use; inside the block, each torch operation runs on one of them."""
    num = torch.get_num_threads()
    if device.type != "cpu" or num == 1:
        yield ONE_CORE
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max_workers=num, thread_name_prefix="core") as pool:
            yield Cores(num=num, pool=pool)
    finally:
        torch.set_num_threads(num)
