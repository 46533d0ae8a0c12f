"""Progress of long work: a bar on a terminal, plain lines elsewhere.

Owns: `track`, the only place that uses tqdm.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_PLAIN_LINES = 15.0

log = logging.getLogger("autoseg")


def track(items: Iterable[Item], *, what: str, total: int | None = None, unit: str = "case") -> Iterator[Item]:
    """Yield the items of a long job and show how far it is.

    Args:
        items: What is worked through.
        what: Two or three words that name the work, such as "reading scans".
        total: Number of items where `len(items)` is not known.
        unit: What one item is.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit=unit, leave=False)
        return
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_PLAIN_LINES:
            last = now
            log.info("%s: %d of %s %ss after %.0f s", what, done, total if total is not None else "?", unit, now - start)
        yield item
