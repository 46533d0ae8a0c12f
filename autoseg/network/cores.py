"""The cores of a CPU, each working on slices of its own.

Owns: `Cores`, a pool of threads in which every torch operation keeps to one core.

Why not torch's own threads: a step of the nano network is some 5,000 small operations, and sharing each of them out
costs more than it saves; on two cores the time of a step falls by nothing (4 slices) to a quarter (8 slices), and it
grows tenfold as soon as another thread, such as the one that prepares the next batch, wants a core too.
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
    """How many parts a batch may be cut into, and who works on them.

    Attributes:
        num: Number of cores; 1 on a GPU, which wants its batch whole.
        pool: The threads, or None with a single core.
    """

    num: int
    pool: ThreadPoolExecutor | None

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Call the function for each item, side by side; the results come in the order of the items."""
        if self.pool is None or len(items) < 2:
            return [function(item) for item in items]
        return list(self.pool.map(function, items))

    def parts(self, num_slices: int, *, at_least: int = 1) -> list[slice]:
        """Cut a batch into even parts, one a core, none of fewer than `at_least` slices unless the batch is smaller."""
        count = max(1, min(self.num, num_slices // at_least))
        bounds = [round(i * num_slices / count) for i in range(count + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


ONE_CORE = Cores(num=1, pool=None)


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Cores]:
    """Give the cores that torch may use; until the end each torch operation keeps to one of them."""
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
