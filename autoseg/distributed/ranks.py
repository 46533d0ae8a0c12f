"""Processes that torchrun started together: which one this is, and what they tell each other.

Owns: the only reading of RANK, WORLD_SIZE and what else torchrun sets; waiting for each other, small values from all to
all, and the end of all when one is lost. autoseg starts no ranks by itself.
Does not own: who is still there (`roll_call.py`), tensors of several ranks (`collectives.py`).

What ranks tell each other goes as JSON through torch's store, a dictionary that torchrun or the first rank keeps. They
look into it again and again in place of waiting inside it, so that a signal, or the loss of a rank, is noticed at once.
"""

import contextlib
import functools
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from autoseg.distributed.last_words import ApartError
from autoseg.distributed.roll_call import RollCall
from autoseg.errors import UsageError

ARRIVAL_SECONDS = (
    600.0  # that ranks wait for each other at the beginning; machines of a cluster start at their own pace
)
LONGEST_SLEEP = 0.1  # between two looks into the store
CONNECTING = timedelta(seconds=2)  # to the store, in one of several tries; a signal waits as long
ANSWERING = timedelta(seconds=10)  # of the store, for what is there
Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among those started with it.

    Attributes:
        rank: From 0.
        size: Number of all.
        is_started: Whether torchrun, or its like, started it, also if it is the only one.
    """

    rank: int = 0
    size: int = 1
    is_started: bool = field(default=False, compare=False)
    _talk: "_Talk | None" = field(default=None, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return the items of this process: every n-th, so that neighbors in size go to different ones."""
        return list(items[self.rank :: self.size])

    def wait(self) -> None:
        """Return when all processes are here.

        Raises:
            ApartError: A rank is lost; what comes out of `join_ranks` says which.
        """
        self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """Give a JSON value to all ranks and return those of all, by rank; all must come here equally often.

        Raises:
            ApartError: A rank is lost.
        """
        return [value] if self._talk is None else self._talk.gather(value, rank=self.rank, size=self.size)

    def from_lead(self, value: Any) -> Any:
        """Return the JSON value that the first rank gives; what the others give does not count."""
        return self.gather(value if self.leads else None)[0]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """See that all ranks are about to do the same.

        Args:
            facts: JSON values by what they are, in words.

        Raises:
            UsageError: One has others than the first rank. All ranks raise it.
        """
        of_all = self.gather(dict(facts))
        for rank, theirs in enumerate(of_all):
            for name, value in of_all[0].items():
                if theirs[name] != value:
                    raise UsageError(
                        f"rank {rank} of {self.size} has another {name} than the first one: {theirs[name]!s:.100}, "
                        f"there {value!s:.100}. Start all ranks with the same command, on the same folder."
                    )

    def explain(self, error: BaseException, *, where: str = "") -> BaseException:
        """Return the error to end with in place of this one: see `RollCall.explain`."""
        return error if self._talk is None else self._talk.roll_call.explain(error, where=where)

    def store_for(self, purpose: str) -> Any:
        """Return a part of the store, on a connection of its own, for torch to make its process group with."""
        from torch import distributed

        if self._talk is None:
            return distributed.HashStore()
        return distributed.PrefixStore(f"{self._talk.prefix}/{purpose}", _connect(purpose))


ONE_RANK = Ranks()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Join the others that torchrun started; alone, where it did not.

    When a rank is lost, all others end with an error; the first that is left says which one, and why.

    Raises:
        UsageError: The variables are no numbers, or the others do not come.
        RankLostError: A rank is gone, or ended early.
    """
    rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE {size}; expected a rank below the size.")
    if size == 1:
        yield Ranks(is_started="MASTER_ADDR" in os.environ)
        return
    talk = _arrive(rank, size)
    ranks = Ranks(rank, size, True, talk)
    try:
        yield ranks
        ranks.wait()  # whoever keeps the store may not leave before the others
    except BaseException as error:
        told = ranks.explain(error)
        if rank == 0 and not _keeps_torchrun_the_store():
            talk.roll_call.linger()
        if told is error:
            raise
        raise told from error
    finally:
        talk.roll_call.stop()


def leads() -> bool:
    """Whether this process is the first of those that torchrun started, or alone."""
    return _number("RANK", 0) == 0


def rank_name() -> str:
    """Return "rank 1 of 2", or nothing for a process that is alone."""
    size = _number("WORLD_SIZE", 1)
    return f"rank {_number('RANK', 0)} of {size}" if size > 1 else ""


def local_rank() -> int:
    """Return which of this machine's processes this is; it takes the GPU of that number."""
    return _number("LOCAL_RANK", 0)


def num_local_ranks() -> int:
    """Return the number of this machine's processes, which share its cores and its memory."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1))


def tell_torchrun(message: str) -> None:
    """Leave a message where torchrun looks for one when it sums up why a rank failed."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        told = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": told}), encoding="utf-8")


class _Talk:
    """What ranks say to each other."""

    def __init__(self, store: Any, roll_call: RollCall, *, prefix: str) -> None:
        self.roll_call, self.prefix = roll_call, prefix
        self._store = store
        self._numbers = itertools.count()

    def gather(self, value: Any, *, rank: int, size: int) -> list[Any]:
        number = next(self._numbers)
        keys = [f"gather/{number}/{other}" for other in range(size)]
        try:
            self._store.set(keys[rank], json.dumps(value))
            self._wait_for(keys)
            return [json.loads(content) for content in self._store.multi_get(keys)]
        except RuntimeError as error:  # torch's own, of a store that does not answer
            raise ApartError(str(error)) from error

    def _wait_for(self, keys: list[str]) -> None:
        sleep = 0.001
        while not self._store.check(keys):
            if self.roll_call.is_troubled():
                raise ApartError("a rank ended early")
            time.sleep(sleep)
            sleep = min(LONGEST_SLEEP, 1.5 * sleep)


def _arrive(rank: int, size: int) -> _Talk:
    """Say that this rank is here, and wait for all others.

    Raises:
        UsageError: They do not come.
    """
    from torch import distributed

    store = _connect("talk")
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    times = store.add(f"autoseg/{attempt}/joined/{rank}", 1)  # a script may plan, train and predict
    prefix = f"autoseg/{attempt}/{times}"
    keeper = "torchrun" if _keeps_torchrun_the_store() else "rank 0"
    watched = distributed.PrefixStore(prefix, _connect("roll call"))
    roll_call = RollCall(watched, rank=rank, size=size, keeper=keeper)
    roll_call.sign_in()
    start = time.monotonic()
    while missing := roll_call.missing():
        if time.monotonic() - start > ARRIVAL_SECONDS:
            raise UsageError(
                f"of {size} ranks {', '.join(map(str, missing))} did not come within {ARRIVAL_SECONDS:.0f} s. Look at "
                "their messages, and start all of them with torchrun."
            )
        time.sleep(LONGEST_SLEEP)
    roll_call.start()
    return _Talk(distributed.PrefixStore(prefix, store), roll_call, prefix=prefix)


@functools.cache
def _connect(purpose: str) -> Any:
    """Connect to the store that all ranks share; each purpose has a connection, since one that waits is busy.

    It lives as long as the process: of one that the first rank keeps the others would lose the end.

    Raises:
        UsageError: There is none.
    """
    from torch import distributed

    host, port = os.environ.get("MASTER_ADDR"), _number("MASTER_PORT", 0)
    if not host or not port:
        raise UsageError("WORLD_SIZE is set, but MASTER_ADDR and MASTER_PORT are not. Start all ranks with torchrun.")
    is_keeper = _number("RANK", 0) == 0 and not _keeps_torchrun_the_store()
    start = time.monotonic()
    while True:
        try:
            store = distributed.TCPStore(
                host, port, None, is_keeper, timeout=CONNECTING, wait_for_workers=False, multi_tenant=True
            )
            store.set_timeout(ANSWERING)
            return store
        except (RuntimeError, ValueError) as error:
            if time.monotonic() - start > ARRIVAL_SECONDS or is_keeper:
                reason = str(error).partition("\n")[0]
                raise UsageError(
                    f"the other ranks cannot be reached at {host}:{port} ({reason}). Start all of them with torchrun."
                ) from error


def _keeps_torchrun_the_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"the environment's {name} is {text!r:.40}; expected a number. Unset it, or use torchrun.")
    return int(text)
