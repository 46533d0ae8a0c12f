"""Three things at once: the next items are read and the last ones written while one is worked on.

Owns: `overlap`. Its threads read and write; the work stays in the caller's.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

from autoseg.errors import AutosegError

# All other errors are bugs of ours.
FAULTS_OF_AN_ITEM = (AutosegError, OSError, MemoryError, torch.OutOfMemoryError)

log = logging.getLogger("autoseg")

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Written = TypeVar("Written")


def overlap(
    items: Sequence[Item],
    *,
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], Written],
    threads: int,
    may_hold: Callable[[Sequence[Item]], bool],
    fatal: tuple[type[Exception], ...] = (),
) -> Iterator[tuple[Item, Written | Exception]]:
    """Take every item through three steps.

    Args:
        items: In the order in which they come out.
        read: First step, in a thread of its own.
        work: Second step.
        write: Third step, in a thread of its own.
        threads: So many items are read ahead at once, and so many written.
        may_hold: Whether these items may be in memory together: read, worked on or being written. One alone always may.
        fatal: Errors after which no other item would fare better.

    Yields:
        Each item with what `write` returned, or with the error of any step, which ends that item and no more. Fatal
        errors are raised, as is what stops the whole process, after what was begun to be written is written.
    """
    attempt = partial(_attempt, fatal)
    waiting = deque(items)
    coming: deque[tuple[Item, Future[Any]]] = deque()
    leaving: deque[tuple[Item, Future[Any]]] = deque()
    with ThreadPoolExecutor(threads, "reading") as reading, ThreadPoolExecutor(threads, "writing") as writing:

        def read_ahead(*at_work: Item) -> None:
            while waiting and len(coming) < threads:
                held = [*at_work, *(item for item, _ in leaving), *(item for item, _ in coming)]
                if held and not may_hold([*held, waiting[0]]):
                    return
                coming.append((waiting[0], reading.submit(attempt, read, waiting[0])))
                waiting.popleft()

        while waiting or coming:
            while leaving and (len(leaving) >= threads or leaving[0][1].done()):
                yield _result(leaving.popleft())
            read_ahead()
            if not coming:  # there is no room for the next one before the last one is written
                yield _result(leaving.popleft())
                continue
            item, future = coming.popleft()
            read_ahead(item)
            found = future.result()
            del future
            made = found if isinstance(found, Exception) else attempt(work, item, found)
            if isinstance(made, Exception):
                leaving.append((item, _done(made)))
            else:
                leaving.append((item, writing.submit(attempt, write, item, made)))
            del found, made  # a scan must not outlive its turn
        while leaving:
            yield _result(leaving.popleft())


def _result(leaving: tuple[Item, Future[Any]]) -> tuple[Item, Any]:
    item, future = leaving
    return item, future.result()


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def _attempt(fatal: tuple[type[Exception], ...], step: Callable[..., Any], *values: Any) -> Any:
    """Call a step; an error that is not fatal is its result, and one that is no fault of the item is in the log."""
    try:
        return step(*values)
    except fatal:
        raise
    except Exception as error:
        if not isinstance(error, FAULTS_OF_AN_ITEM):
            log.error("a bug of autoseg; please report the lines below.", exc_info=error)
        error.__traceback__ = error.__context__ = error.__cause__ = None  # their frames hold the scan
        return error
