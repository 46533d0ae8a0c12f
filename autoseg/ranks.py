"""Processes that torchrun started together: which one this is, and waiting for the others.

Owns: the only reading of RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE. autoseg starts no ranks by itself.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from autoseg.errors import UsageError

LONGEST_WAIT = timedelta(days=7)  # the others may have longer work; torchrun ends all when one dies
Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among those started with it.

    Attributes:
        rank: From 0.
        size: Number of all.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return the items of this process: every n-th, so that neighbours in size go to different ones."""
        return list(items[self.rank :: self.size])

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the others that torchrun started; alone, where it did not.

    Raises:
        UsageError: The variables are no numbers, or the others cannot be reached.
    """
    ranks = Ranks(_number("RANK", 0), _number("WORLD_SIZE", 1))
    if not 0 <= ranks.rank < ranks.size:
        raise UsageError(f"RANK is {ranks.rank} and WORLD_SIZE {ranks.size}; expected a rank below the size.")
    if ranks.size == 1:
        yield ranks
        return
    from torch import distributed

    try:
        distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the other ranks cannot be reached: {error}. Start all of them with torchrun.") from error
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()


def leads() -> bool:
    """Whether this process is the first of those that torchrun started, or alone."""
    return _number("RANK", 0) == 0


def local_rank() -> int:
    """Return which of this machine's processes this is; it takes the GPU of that number."""
    return _number("LOCAL_RANK", 0)


def local_size() -> int:
    """Return how many processes this machine has; they share its cores and its memory."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"the environment's {name} is {text!r:.40}; expected a number. Unset it, or use torchrun.")
    return int(text)
