"""Reads the next items and writes the last ones in threads, while the caller works on one.

Owns: `Prefetch`.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch

from autoseg.errors import AutosegError

# All other errors are bugs of ours.
FAULTS_OF_AN_ITEM = (AutosegError, OSError, MemoryError, torch.OutOfMemoryError)

log = logging.getLogger("autoseg")

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Written = TypeVar("Written")


class Prefetch(Generic[Item, Read, Made, Written]):
    """Reads the next items and writes the last ones in threads, while the caller works on one.

    Example:
        with Prefetch(cases, read=read, write=write, on_done=report, threads=1, may_hold=fits) as prefetch:
            for case, scan in prefetch:
                prefetch.write(case, network(scan))
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        read: Callable[[Item], Read],
        write: Callable[[Item, Made], Written],
        on_done: Callable[[Item, Written | Exception], None],
        threads: int,
        may_hold: Callable[[Sequence[Item]], bool],
        fatal: tuple[type[Exception], ...] = (),
    ) -> None:
        """Prepare the steps.

        Args:
            items: The items, in the order in which they are processed.
            read: The first step, which runs in a thread.
            write: The last step, which runs in a thread.
            on_done: Called with each item and the result of `write`, or with the error of any step.
            threads: The number of items that are read ahead at once, and that are written at once.
            may_hold: Returns whether these items may be in memory together; a single one always may.
            fatal: The errors that affect all items; they are raised, after items that are being written.
        """
        self._waiting = deque(items)
        self._read, self._write, self._on_done = read, write, on_done
        self._threads, self._may_hold, self._fatal = threads, may_hold, fatal
        self._coming: deque[tuple[Item, Future[Any]]] = deque()
        self._leaving: deque[tuple[Item, Future[Any]]] = deque()

    def __enter__(self) -> "Prefetch[Item, Read, Made, Written]":
        """Start the threads."""
        self._reading = ThreadPoolExecutor(self._threads, "reading")
        self._writing = ThreadPoolExecutor(self._threads, "writing")
        return self

    def __exit__(self, *_error: object) -> None:
        """Wait for the items that are being read and written."""
        self._reading.shutdown()
        self._writing.shutdown()

    def __iter__(self) -> Iterator[tuple[Item, Read]]:
        """Yield the items that could be read, each with the result of `read`; all are done at the end."""
        while self._waiting or self._coming:
            while self._leaving and (len(self._leaving) >= self._threads or self._leaving[0][1].done()):
                self._finish_first()
            self._read_ahead()
            if not self._coming:  # there is no room for the next one before the last one is written
                self._finish_first()
                continue
            item, future = self._coming.popleft()
            self._read_ahead(item)
            found = future.result()
            del future
            if isinstance(found, Exception):
                self.fail(item, found)
            else:
                yield item, found
            del found  # a scan must not outlive its turn
        while self._leaving:
            self._finish_first()

    def write(self, item: Item, made: Made) -> None:
        """Begin to write the result of an item."""
        self._leaving.append((item, self._writing.submit(self._attempt, self._write, item, made)))

    def fail(self, item: Item, error: Exception) -> None:
        """End an item with the error of the work on it, which is raised if it is fatal."""
        if isinstance(error, self._fatal):
            raise error
        future: Future[Any] = Future()
        future.set_result(_without_frames(error))
        self._leaving.append((item, future))

    def _read_ahead(self, *at_work: Item) -> None:
        while self._waiting and len(self._coming) < self._threads:
            held = [*at_work, *(item for item, _ in self._leaving), *(item for item, _ in self._coming)]
            if held and not self._may_hold([*held, self._waiting[0]]):
                return
            item = self._waiting.popleft()
            self._coming.append((item, self._reading.submit(self._attempt, self._read, item)))

    def _finish_first(self) -> None:
        item, future = self._leaving.popleft()
        self._on_done(item, future.result())

    def _attempt(self, step: Callable[..., Any], *values: Any) -> Any:
        """Call a step, and return its result or its error."""
        try:
            return step(*values)
        except self._fatal:
            raise
        except Exception as error:
            return _without_frames(error)


def _without_frames(error: Exception) -> Exception:
    """Return an error without its frames, which reference the scan; the traceback of a bug is logged."""
    if not isinstance(error, FAULTS_OF_AN_ITEM):
        log.error("a bug of autoseg; please report the lines below.", exc_info=error)
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
