"""One function over many cases, in several processes.

Owns: starting and ending worker processes, and what happens when one of them dies.
Does not own: what is done to a case, nor how many cases a machine should work on at once beyond its cores.

Each worker has a pipe of its own and works on one case at a time, so that a death (out of memory, segmentation fault)
points at its case. That case is tried once more, alone, after all others; a second death is reported by name. Nothing
waits for a process that is gone. Workers end with their parent: they see the pipe's end, even after `kill -9`.
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

from autoseg.errors import AutosegError, printable
from autoseg.files import fault_of
from autoseg.progress import track

T = TypeVar("T")
R = TypeVar("R")
START_METHOD = (
    "fork" if sys.platform == "linux" else "spawn"
)  # a fork starts in milliseconds, a fresh Python in a second
SECONDS_TO_END = 5.0  # what a worker gets between SIGTERM and SIGKILL

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class WorkerFailure:
    """Why there is no result for a case.

    Attributes:
        message: The error's own words, or how the process died.
        is_expected: False for a bug of ours, whose traceback is in the log.
    """

    message: str
    is_expected: bool = True


def default_num_workers() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_cases(
    function: Callable[[T], R], items: Sequence[T], *, num_workers: int, what: str
) -> Iterator[tuple[T, R | WorkerFailure]]:
    """Apply a function to every item and yield each with its result, in the order of the items, showing progress.

    Args:
        function: A function of a module, or a `functools.partial` of one; it and its results can be pickled.
        items: The cases.
        num_workers: Processes at the same time; with one or none the work is done in this process.
        what: Two or three words that name the work.

    Yields:
        The item and what the function returned, or a `WorkerFailure` where it raised or its process died twice.
        An exception never stops the other items.
    """
    num_workers = min(num_workers, len(items))
    results: Generator[tuple[int, R | WorkerFailure], None, None]
    if num_workers <= 1:
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
    """One process, this end of its pipe, and the number of the item it works on."""

    process: Any
    pipe: Connection
    index: int | None = None


def _map_in_processes(
    function: Callable[[T], R], items: Sequence[T], *, num_workers: int
) -> Generator[tuple[int, R | WorkerFailure], None, None]:
    """Yield results as they come; the items of dead workers last, each alone."""
    waiting = deque(range(len(items)))
    suspects: list[int] = []
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.index is not None for worker in workers):
            while waiting and len(workers) < num_workers:
                workers.append(_start(function, items, others=workers))
            for worker in workers:
                if worker.index is None and waiting:
                    _give(worker, waiting.popleft())
            for worker, result in _answers(workers):
                if worker.index is not None and result is not None:
                    yield worker.index, result[0]
                    worker.index = None
                else:
                    workers.remove(worker)
                    suspects.extend([] if worker.index is None else [worker.index])
                    _end(worker)
        while workers:
            _end(workers.pop())
        for index in suspects:
            name = printable(str(getattr(items[index], "case_id", items[index])))
            log.warning("%s: its process died; it is tried once more, alone.", name)
            workers.append(_start(function, items, others=[]))
            _give(workers[0], index)
            (_, result), *_ = _answers(workers)
            yield index, _end(workers.pop()) if result is None else result[0]
            while workers:
                _end(workers.pop())
    finally:
        for worker in workers:
            _end(worker)


def _answers(workers: Sequence[_Worker]) -> list[tuple[_Worker, tuple[Any] | None]]:
    """Wait for at least one answer; give (result,), or None for a worker that is gone."""
    ready = wait([worker.pipe for worker in workers])
    answers: list[tuple[_Worker, tuple[Any] | None]] = []
    for worker in workers:
        if worker.pipe in ready:
            try:
                answers.append((worker, (worker.pipe.recv(),)))
            except (EOFError, OSError):
                answers.append((worker, None))
    return answers


def _start(function: Callable[[T], R], items: Sequence[T], *, others: Sequence[_Worker]) -> _Worker:
    context: Any = multiprocessing.get_context(START_METHOD)  # Process is missing from the type of the base class
    here, there = context.Pipe()
    # A forked child holds this end of every pipe too, and must close them to ever see their end.
    inherited = [here, *(worker.pipe for worker in others)] if START_METHOD == "fork" else []
    process = context.Process(target=_work, args=(function, items, there, inherited), daemon=True)
    process.start()
    there.close()
    return _Worker(process, here)


def _give(worker: _Worker, index: int) -> None:
    worker.index = index
    try:
        worker.pipe.send(index)
    except OSError:
        log.debug("worker %s is gone; its pipe will say so", worker.process.pid)


def _end(worker: _Worker) -> WorkerFailure:
    """End a worker, if it is not dead already, and say how it ended."""
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


def _work(function: Callable[[T], R], items: Sequence[T], pipe: Connection, inherited: Sequence[Connection]) -> None:
    """Answer with the result of each item asked for, until the other end closes; runs in the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
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
        return WorkerFailure(str(error))
    if isinstance(error, MemoryError):
        return WorkerFailure(f"the memory was full ({error}). Use fewer workers, or a machine with more memory.")
    log.error("a bug of autoseg; please report the lines below.", exc_info=error)
    return WorkerFailure(
        f"{type(error).__name__}: {error!s:.200} (a bug of autoseg). Report it with the lines of the log.",
        is_expected=False,
    )
