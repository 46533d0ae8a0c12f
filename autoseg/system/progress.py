"""Shows the progress of long work: a bar on a terminal, plain lines elsewhere; only rank 0 shows it.

Owns: `track` and `ProgressBar`, the only places that use tqdm, and `log_item`.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

from autoseg.distributed.ranks import is_main_rank

Item = TypeVar("Item")
SECONDS_BETWEEN_PLAIN_LINES = 15.0
BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"

log = logging.getLogger("autoseg")


def track(items: Iterable[Item], *, what: str, total: int | None = None, unit: str = "case") -> Iterator[Item]:
    """Yield the items of a long job and show its progress.

    Args:
        items: The items.
        what: Two or three words that name the work, such as "reading scans".
        total: The number of items, if they have no length.
        unit: The word for one item.
    """
    if _is_terminal():
        yield from tqdm(items, desc=what, total=total, unit=unit, leave=False)
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_PLAIN_LINES:
            last = now
            log.info(
                "%s: %d of %s %ss after %.0f s", what, done, total if total is not None else "?", unit, now - start
            )
        yield item


def log_item(message: str, *values: object) -> None:
    """Log a line about one item of tracked work, unless a bar is shown."""
    if not _is_terminal():
        log.info(message, *values)


class ProgressBar:
    """A bar for work that is measured rather than counted; plain lines where there is no terminal."""

    def __init__(self, *, what: str, total: float, unit: str) -> None:
        """Make a bar from 0 to `total`."""
        self.what, self.total, self.unit = what, total, unit
        self._start = self._last = time.monotonic()
        self._bar = (
            tqdm(desc=what, total=total, unit=unit, leave=False, bar_format=BAR_FORMAT) if _is_terminal() else None
        )

    def advance_to(self, value: float, *, note: str) -> None:
        """Move the bar to a value and show a note beside it."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(value - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_PLAIN_LINES or value >= self.total:
            self._last = now
            log.info("%s: %.0f%s after %.0f s, %s", self.what, value, self.unit, now - self._start, note)

    def __enter__(self) -> "ProgressBar":
        """Return the bar."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.close()


def _is_terminal() -> bool:
    return sys.stderr.isatty() and is_main_rank()
