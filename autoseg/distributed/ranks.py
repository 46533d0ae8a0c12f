"""Tells a process which rank it is, and lets the ranks of a run exchange values and tensors.

Owns: `join_ranks`, which makes torch's process group; `Ranks`, the collectives that autoseg uses; the only code that
reads RANK, WORLD_SIZE and the other variables that torchrun sets; the error when a rank is lost.
Does not own: starting ranks on the cores of a CPU (`local_ranks.py`), what is exchanged (`training/step.py`).

A rank whose process dies closes its connections, so every collective of the others fails at once: they end with
`RankLostError`, and the same command continues the run. A machine that is switched off is noticed by torchrun.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from autoseg.errors import RankLostError, UsageError
from autoseg.system.signals import Stopped

if TYPE_CHECKING:
    from torch import Tensor

ARRIVAL_TIMEOUT = timedelta(minutes=10)  # machines of a cluster start at their own pace
COLLECTIVE_TIMEOUT = timedelta(days=1)  # one rank may read, validate or write for long while the others wait
FAREWELL_TIMEOUT = timedelta(seconds=20)
Item = TypeVar("Item")


class LostConnectionError(Exception):
    """A collective failed, because a rank is gone or ends; `join_ranks` turns it into `RankLostError`."""


class Group(Protocol):
    """A process group: torch's, or a stand-in in tests."""

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, by rank."""

    def all_reduce(self, tensor: "Tensor") -> None:
        """Add up a tensor over all ranks, in place."""

    def is_complete(self) -> bool:
        """Return whether all ranks are still alive; all that are must call this."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that work on the same command.

    Attributes:
        rank: The number of this process, from 0.
        world_size: The number of processes.
        is_local: Whether this command itself started the others, on the cores of this machine.
        group: The process group; None for a process that is alone.
    """

    rank: int = 0
    world_size: int = 1
    is_local: bool = field(default=False, compare=False)
    group: Group | None = field(default=None, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """Return whether this rank writes the files and the messages."""
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> list[Item]:
        """Return the items of this rank: every n-th, so that items of similar size go to different ranks."""
        return list(items[self.rank :: self.world_size])

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.all_gather(None)

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values that all ranks give, by rank."""
        return [value] if self.group is None else self.group.all_gather(value)

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0; the values of the others are ignored."""
        return self.all_gather(value if self.is_main else None)[0]

    def all_reduce(self, tensor: "Tensor") -> "Tensor":
        """Add up a tensor over all ranks, in place, and return it."""
        if self.group is not None:
            self.group.all_reduce(tensor)
        return tensor

    def require_equal(self, facts: Mapping[str, Any]) -> None:
        """Check that all ranks are about to do the same.

        Args:
            facts: Plain values, by their names for the message.

        Raises:
            UsageError: A rank has another value than rank 0. All ranks raise it.
        """
        gathered = self.all_gather(dict(facts))
        for rank, theirs in enumerate(gathered):
            for name, value in gathered[0].items():
                if theirs[name] != value:
                    raise UsageError(
                        f"rank {rank} of {self.world_size} has another {name} than rank 0: {theirs[name]!s:.100} "
                        f"instead of {value!s:.100}. Start all ranks with the same command, on the same folder."
                    )

    def explain(self, error: BaseException, *, where: str = "") -> BaseException:
        """Return the error to end with: `RankLostError` if this rank ends because another one is gone.

        torchrun sends SIGTERM to the remaining ranks when one dies, and to all when the run is stopped. The ranks find
        out which by calling each other once more.

        Args:
            error: The error that ends this rank.
            where: The progress of the work, such as "at step 17".
        """
        is_stopped = isinstance(error, Stopped | KeyboardInterrupt)
        if self.group is None or not (is_stopped or isinstance(error, LostConnectionError)):
            return error
        if is_stopped and (self.is_local or self.group.is_complete()):
            return error
        place = f" {where}" if where else ""
        return RankLostError(
            f"another of the {self.world_size} ranks is gone (it failed, was killed, ran out of memory, or its machine "
            f"is off); the run stops{place}. Look for its own message. The same command continues the run."
        )


ONE_RANK = Ranks()


class TorchGroup:
    """torch's process group: gloo for values and CPU tensors, nccl for tensors on GPUs of their own."""

    def __init__(self, rank: int, world_size: int, *, store: Any = None) -> None:
        """Connect to the other ranks through torchrun's store, or the given one."""
        from torch import distributed

        self._distributed, self._world_size = distributed, world_size
        if not distributed.is_initialized():  # a script may plan, train and predict
            store = store or next(distributed.rendezvous("env://", timeout=ARRIVAL_TIMEOUT))[0]
            if is_local_rank():
                store.set(ready_key(rank), "")
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if _has_own_gpu() else "gloo",
                store=store,
                rank=rank,
                world_size=world_size,
                timeout=COLLECTIVE_TIMEOUT,
            )
        self._farewell: Any = distributed.new_group(backend="gloo", timeout=FAREWELL_TIMEOUT)

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, by rank."""
        found: list[Any] = [None] * self._world_size
        with _lost_connection():
            self._distributed.all_gather_object(found, value)
        return found

    def all_reduce(self, tensor: "Tensor") -> None:
        """Add up a tensor over all ranks, in place."""
        with _lost_connection():
            self._distributed.all_reduce(tensor)

    def is_complete(self) -> bool:
        """Return whether all ranks are still alive; all that are must call this."""
        try:
            self._distributed.monitored_barrier(self._farewell, timeout=FAREWELL_TIMEOUT / 2)
        except RuntimeError:  # torch has no class of its own for a connection that broke
            return False
        return True

    def close(self) -> None:
        """Disconnect, so that the process can join other ranks later."""
        self._distributed.destroy_process_group()


@contextmanager
def join_ranks(*, group: Group | None = None) -> Iterator[Ranks]:
    """Join the other ranks of this command; a process that was not started by torchrun is alone.

    Args:
        group: The process group, if `local_ranks.py` has started the ranks; None uses that of torchrun.

    Raises:
        UsageError: The variables of torchrun are not valid, or the other ranks do not appear.
        RankLostError: Another rank is gone.
    """
    rank, world_size = _read_number("RANK", 0), _read_number("WORLD_SIZE", 1)
    if not 0 <= rank < world_size:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE {world_size}; expected a rank below it. Start with torchrun.")
    if world_size == 1:
        yield ONE_RANK
        return
    ranks = Ranks(rank, world_size, group is not None or is_local_rank(), group or _connect(rank, world_size))
    try:
        yield ranks
        ranks.barrier()  # rank 0 may keep the store, so it must not leave before the others
    except BaseException as error:
        explained = ranks.explain(error)
        if explained is error:
            raise
        raise explained from error


def _connect(rank: int, world_size: int) -> TorchGroup:
    from torch import distributed

    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UsageError(f"WORLD_SIZE is set, but {' and '.join(missing)} is not. Start all ranks with torchrun.")
    try:
        return TorchGroup(rank, world_size)
    except (RuntimeError, ValueError, distributed.DistError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"the {world_size} ranks cannot be connected ({reason}). Start all with torchrun.") from error


@contextmanager
def _lost_connection() -> Iterator[None]:
    """Convert torch's errors about broken connections to `LostConnectionError`."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostConnectionError(str(error).partition("\n")[0]) from error


def _has_own_gpu() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.device_count() >= num_local_ranks()


def is_main_rank() -> bool:
    """Return whether this process is rank 0, or alone."""
    return _read_number("RANK", 0) == 0


def rank_name() -> str:
    """Return "rank 1 of 2", or nothing for a process that is alone."""
    world_size = _read_number("WORLD_SIZE", 1)
    return f"rank {_read_number('RANK', 0)} of {world_size}" if world_size > 1 else ""


def local_rank() -> int:
    """Return the number of this rank among those of this machine; it uses the GPU with that number."""
    return _read_number("LOCAL_RANK", 0)


def num_local_ranks() -> int:
    """Return the number of this machine's ranks, which share its cores and its memory."""
    return max(1, _read_number("LOCAL_WORLD_SIZE", 1))


def is_local_rank() -> bool:
    """Return whether `local_ranks.py` started this process."""
    return os.environ.get("AUTOSEG_LOCAL_RANK") == "1"


def ready_key(rank: int) -> str:
    """Return the key that a rank started by `local_ranks.py` sets when it has reached the store."""
    return f"autoseg/ready/{rank}"


def report_to_torchrun(message: str) -> None:
    """Write a message where torchrun looks for the reason why a rank failed."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        report = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": report}), encoding="utf-8")


def _read_number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"the environment's {name} is {text!r:.40}; expected a number. Unset it, or use torchrun.")
    return int(text)
