"""Applies a function to many cases in several processes.

Owns: `map_cases`: starting and ending worker processes, and what happens when one of them dies.
Does not own: the function, and the memory that a case needs.

Each worker has a pipe of its own and works on one case at a time, so that the case is known when a worker dies (out of
memory, segmentation fault). That case is tried again, alone, after all others; a second death is reported with its
name. Workers end with their parent, even after `kill -9`: Linux ends them, elsewhere they notice the closed pipe.
"""

import logging
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from autoseg.distributed.ranks import num_local_ranks
from autoseg.errors import AutosegError, OutputError, printable
from autoseg.system.atomic_files import fault_of
from autoseg.system.progress import track
from autoseg.system.resources import end_with_parent, find_free_bytes, find_num_cores
from autoseg.system.signals import SIGNALS, defer_signals

T = TypeVar("T")
R = TypeVar("R")
START_METHOD = (
    "fork" if sys.platform == "linux" else "spawn"
)  # a fork starts in milliseconds, a fresh Python in a second
SECONDS_TO_END = 5.0  # what a worker gets between SIGTERM and SIGKILL
SHARE_OF_FREE_MEMORY = 0.8  # for all workers; what a case takes is an estimate

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class WorkerFailure:
    """The reason why there is no result for a case.

    Attributes:
        message: The message of the error, or how the process died.
        is_expected: False for a bug of autoseg, whose traceback is in the log.
        memory_was_full: Whether memory was full, of which more may be free when the case is alone.
        is_of_all: Whether every other case would fail in the same way, such as with a full disk.
    """

    message: str
    is_expected: bool = True
    memory_was_full: bool = False
    is_of_all: bool = False


def default_num_workers(bytes_a_worker: float = 0.0) -> int:
    """Return one worker per core, or as many as fit into the free memory.

    Args:
        bytes_a_worker: The memory that the largest case needs.
    """
    num_cores = max(1, find_num_cores() // num_local_ranks())
    free = SHARE_OF_FREE_MEMORY * find_free_bytes() / num_local_ranks()
    if num_cores * bytes_a_worker <= free:
        return num_cores
    count = max(1, int(free // bytes_a_worker))
    log.info(
        "the largest case takes some %.1f GiB, and %.1f GiB are free: %d of %d cores work at once.",
        bytes_a_worker / 2**30,
        free / SHARE_OF_FREE_MEMORY / 2**30,
        count,
        num_cores,
    )
    return count


def map_cases(
    function: Callable[[T], R], items: Sequence[T], *, num_workers: int, what: str
) -> Iterator[tuple[T, R | WorkerFailure]]:
    """Apply a function to every item and yield each with its result, in the order of the items, showing progress.

    Args:
        function: A function of a module, or a `functools.partial` of one; it and its results can be pickled.
        items: The cases.
        num_workers: The number of processes. One worker is a process too, so that a case that kills it does not kill
            this process; with 0 the work is done in this process.
        what: Two or three words that name the work.

    Yields:
        The item and the result, or a `WorkerFailure` if the function raised or its process died twice. An exception
        never stops the other items.
    """
    num_workers = min(num_workers, len(items))
    results: Generator[tuple[int, R | WorkerFailure], None, None]
    if num_workers < 1:
        results = ((index, _call(function, item)) for index, item in enumerate(items))
    else:
        results = _map_in_processes(function, items, num_workers=num_workers)
    try:
        early: dict[int, R | WorkerFailure] = {}
        due = 0
        for index, result in track(results, what=what, total=len(items)):
            early[index] = result
            while due in early:
                yield items[due], early.pop(due)
                due += 1
    finally:
        results.close()


@dataclass(eq=False)
class _Worker(Generic[T]):
    """A process, this end of its pipe, and the index of its item."""

    process: Any
    pipe: Connection
    index: int | None = None


def _map_in_processes(
    function: Callable[[T], R], items: Sequence[T], *, num_workers: int
) -> Generator[tuple[int, R | WorkerFailure], None, None]:
    """Yield results as they come; items whose workers died are tried again at the end, each alone."""
    waiting = deque(range(len(items)))
    suspects: list[int] = []
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.index is not None for worker in workers):
            while waiting and len(workers) < num_workers:
                if not _start(function, items, workers=workers):
                    num_workers = len(workers)
            if not workers:
                yield from ((index, _call(function, items[index])) for index in waiting)
                break
            for worker in workers:
                if worker.index is None and waiting:
                    _give(worker, waiting.popleft())
            for worker, result in _answers(workers):
                if worker.index is not None and result is not None:
                    index, worker.index = worker.index, None
                    if isinstance(result[0], WorkerFailure) and result[0].memory_was_full:
                        suspects.append(index)
                    else:
                        yield index, result[0]
                else:
                    workers.remove(worker)
                    suspects.extend([] if worker.index is None else [worker.index])
                    _end(worker)
        while workers:
            _end(workers.pop())
        for index in suspects:
            name = printable(str(getattr(items[index], "case_id", items[index])))
            log.warning("%s: its process died, or found no memory; it is tried once more, alone.", name)
            if not _start(function, items, workers=workers):
                yield index, WorkerFailure("its process died, and another could not be started. Use fewer workers.")
                continue
            _give(workers[0], index)
            (_, result), *_ = _answers(workers)
            yield index, _end(workers.pop()) if result is None else result[0]
            while workers:
                _end(workers.pop())
    finally:
        for worker in workers:
            _end(worker)


def _answers(workers: Sequence[_Worker]) -> list[tuple[_Worker, tuple[Any] | None]]:
    """Wait for at least one answer: (result,), or None for a worker that died."""
    ready = wait([worker.pipe for worker in workers])
    answers: list[tuple[_Worker, tuple[Any] | None]] = []
    for worker in workers:
        if worker.pipe in ready:
            try:
                answers.append((worker, (worker.pipe.recv(),)))
            except (EOFError, OSError):
                answers.append((worker, None))
    return answers


def _start(function: Callable[[T], R], items: Sequence[T], *, workers: list[_Worker]) -> bool:
    """Start a worker and add it to the list; return False if the system refuses to start one."""
    context: Any = multiprocessing.get_context(START_METHOD)  # Process is missing from the type of the base class
    with defer_signals():  # a signal between the start and the list would leave a process that nobody ends
        here, there = context.Pipe()
        # A forked child holds this end of every pipe too, and must close them to ever see their end.
        inherited = [here, *(worker.pipe for worker in workers)] if START_METHOD == "fork" else []
        process = context.Process(target=_work, args=(function, items, there, inherited, os.getpid()), daemon=True)
        try:
            process.start()
        except OSError as error:  # too many processes, or too little memory for one more
            here.close()
            log.warning("no more than %d worker processes can be started (%s).", len(workers), error.strerror)
            return False
        finally:
            there.close()
        workers.append(_Worker(process, here))
    return True


def _give(worker: _Worker, index: int) -> None:
    worker.index = index
    try:
        worker.pipe.send(index)
    except OSError:
        log.debug("worker %s is gone; its pipe will say so", worker.process.pid)


def _end(worker: _Worker) -> WorkerFailure:
    """End a worker if it is still alive, and explain how it ended."""
    worker.pipe.close()
    worker.process.join(timeout=0.5 if worker.index is None else 0)
    if worker.process.is_alive():
        worker.process.terminate()
        worker.process.join(timeout=SECONDS_TO_END)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()
    code = worker.process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " Often this means that the memory was full: use fewer workers." if name == "SIGKILL" else ""
        return WorkerFailure(f"its process was ended by {name}, twice. Check the case.{hint}")
    return WorkerFailure(f"its process ended with exit code {code}, twice. Check the case, and use fewer workers.")


def _work(
    function: Callable[[T], R], items: Sequence[T], pipe: Connection, inherited: Sequence[Connection], parent: int
) -> None:
    """Send the result of each requested item until the pipe is closed; runs in the worker."""
    for number in SIGNALS:  # those of the terminal reach the parent as well, which ends its workers
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    end_with_parent(parent)
    for other in inherited:
        other.close()
    try:
        while True:
            index = pipe.recv()
            result = _call(function, items[index])
            try:
                pipe.send(result)
            except OSError:
                raise
            except Exception as error:  # the result cannot be pickled: nothing has been sent
                pipe.send(_failure(error))
    except (EOFError, OSError):
        return  # the parent is done, or gone


def _call(function: Callable[[T], R], item: T) -> R | WorkerFailure:
    try:
        return function(item)
    except Exception as error:  # any: no bad scan stops the others, and the failure is reported by name
        return _failure(error)


def _failure(error: Exception) -> WorkerFailure:
    if isinstance(error, OSError):
        return WorkerFailure(fault_of(error))
    if isinstance(error, AutosegError):
        return WorkerFailure(str(error), is_of_all=isinstance(error, OutputError))
    if isinstance(error, MemoryError):
        return WorkerFailure(
            f"the memory was full ({error}). Use fewer workers, or a machine with more memory.", memory_was_full=True
        )
    log.error("a bug of autoseg; please report the lines below.", exc_info=error)
    return WorkerFailure(
        f"{type(error).__name__}: {error!s:.200} (a bug of autoseg). Report it with the lines of the log.",
        is_expected=False,
    )
