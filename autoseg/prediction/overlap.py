"""Three things at once: the next item is read and the last one written while one is worked on.

Owns: `overlap`. Its threads read and write; the work stays in the caller's.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

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
    may_read_ahead: Callable[[Item], bool],
    expected: tuple[type[BaseException], ...],
) -> Iterator[tuple[Item, Written | BaseException]]:
    """Take every item through three steps.

    Args:
        items: In the order in which they come out.
        read: First step, in a thread of its own.
        work: Second step.
        write: Third step, in a thread of its own; when an item is worked on, at most the one before is still written.
        may_read_ahead: Whether an item may be read while another is held; else its turn waits until that is written.
        expected: Errors that end an item and no more; they are yielded in place of what `write` returns.

    Yields:
        Each item with what `write` returned, or with the expected error of any step. Other errors are raised, after
        what was begun to be written is written.
    """
    attempt = partial(_attempt, expected)
    with ThreadPoolExecutor(1, "reading") as reading, ThreadPoolExecutor(1, "writing") as writing:
        ahead: Future[Any] | None = None
        last: tuple[Item, Future[Any]] | None = None
        for number, item in enumerate(items):
            if ahead is None:
                if last is not None:
                    yield last[0], last[1].result()
                    last = None
                ahead = reading.submit(attempt, read, item)
            found, ahead = ahead.result(), None
            if number + 1 < len(items) and may_read_ahead(item) and may_read_ahead(items[number + 1]):
                ahead = reading.submit(attempt, read, items[number + 1])
            made = found if isinstance(found, BaseException) else attempt(work, item, found)
            if last is not None:
                yield last[0], last[1].result()
                last = None
            if isinstance(made, BaseException):
                yield item, made
            else:
                last = item, writing.submit(attempt, write, item, made)
            del found, made  # a scan must not outlive its turn
        if last is not None:
            yield last[0], last[1].result()


def _attempt(expected: tuple[type[BaseException], ...], step: Callable[..., Any], *values: Any) -> Any:
    """Call a step; an expected error is its result."""
    try:
        return step(*values)
    except expected as error:
        error.__traceback__ = error.__context__ = error.__cause__ = None  # their frames hold the scan
        return error
