"""Progress of long work: a bar on a terminal, plain lines elsewhere; of several ranks the first one shows it.

Owns: `track` and `ProgressBar`, the only places that use tqdm, and `tell`.
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
    """Yield the items of a long job and show how far it is.

    Args:
        items: What is worked through.
        what: Two or three words that name the work, such as "reading scans".
        total: Number of items where `len(items)` is not known.
        unit: What one item is.
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


def tell(message: str, *values: object) -> None:
    """Log a line about one item of tracked work where no bar is shown; a bar says enough."""
    if not _is_terminal():
        log.info(message, *values)


class ProgressBar:
    """A bar that is moved by hand, for work that is measured rather than counted; plain lines off a terminal."""

    def __init__(self, *, what: str, total: float, unit: str) -> None:
        """Make a bar from 0 to `total`."""
        self.what, self.total, self.unit = what, total, unit
        self._start = self._last = time.monotonic()
        self._bar = (
            tqdm(desc=what, total=total, unit=unit, leave=False, bar_format=BAR_FORMAT) if _is_terminal() else None
        )

    def advance_to(self, value: float, *, note: str) -> None:
        """Show a new position and what there is to say about it."""
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
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()


def _is_terminal() -> bool:
    return sys.stderr.isatty() and is_main_rank()
