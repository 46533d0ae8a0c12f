"""Ends a command cleanly at a signal: Ctrl-C, SIGTERM, or a closed terminal.

Owns: `stop_on_signals`, which turns signals into an exception so that `finally` clauses run, and `defer_signals`, which
delays them.
Does not own: exit codes and messages (`cli/common.py`).

An exception raised at an arbitrary line can get lost: packages swallow exceptions while they are imported, and C code
that calls Python replaces them. So a signal waits for the end of an import, and is raised again until cleaning up has
begun.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from autoseg.errors import AutosegError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
HAS_TIMER = hasattr(signal, "setitimer")  # not on Windows, where a signal may get lost
IMPORTER = "<frozen importlib._bootstrap>"
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_OF_ONE = 1.0  # programs between us and the terminal pass on what the terminal has sent already


class Stopped(BaseException):
    """A signal arrived; raised in the main thread.

    Attributes:
        signal_number: The number of the signal.
    """

    def __init__(self, signal_number: int) -> None:
        """Store the number of the signal."""
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise `Stopped` in the main thread at a signal; in other threads nothing changes.

    Signals within a second of the first one are ignored; a later one interrupts the cleaning up, such as saving a
    state. After the block, a later signal ends the process at once. Signals that are ignored, as under `nohup`, stay
    ignored.

    Raises:
        Stopped: A signal arrived; also raised in place of an error that the signal caused. An error while cleaning up,
            such as saving to a full disk, is raised as it is.
    """
    stop = _Stop()
    before = _set_handlers(lambda _number: stop.arrive)
    try:
        yield
    except Exception as error:
        if stop.number is None or (isinstance(error, AutosegError | OSError) and _is_because_of_stop(error)):
            raise
        raise Stopped(stop.number) from error
    finally:
        stop.is_over = True
        if HAS_TIMER and stop.number is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if stop.number is None:
            _set_handlers(lambda number: before.get(number, signal.SIG_IGN))


class _Stop:
    """The signals that arrived during a command, and whether one must still be raised."""

    def __init__(self) -> None:
        self.number: int | None = None  # the first one
        self.is_over = False
        self._is_due = False
        self._since = 0.0

    def arrive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal, from the system or repeated by `_look_again`."""
        now = time.monotonic()
        if self.number is None:
            self.number, self._since, self._is_due = number, now, True
            if HAS_TIMER:
                signal.signal(signal.SIGALRM, self._look_again)
                signal.siginterrupt(signal.SIGALRM, False)
                signal.setitimer(signal.ITIMER_REAL, SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_LOOKS)
        elif now - self._since > SECONDS_OF_ONE and not self._is_due:
            if self.is_over:
                os._exit(128 + number)
            self._is_due = True
        if self._is_due and not (HAS_TIMER and _is_importing(frame)):
            self._is_due = False
            raise Stopped(self.number)

    def _look_again(self, _number: int, _frame: FrameType | None) -> None:
        if (
            self.number is not None
            and not self.is_over
            and (self._is_due or not _is_because_of_stop(sys.exc_info()[1]))
        ):
            self._is_due = True
            signal.raise_signal(self.number)  # rather than the exception: it may be held back now


@contextmanager
def defer_signals() -> Iterator[None]:
    """Delay signals until the end of the block, for a few lines that must run completely or not at all."""
    waiting: list[int] = []
    before = _set_handlers(lambda _number: lambda number, _frame: waiting.append(number))
    try:
        yield
    finally:
        _set_handlers(lambda number: before.get(number, signal.SIG_IGN))
        for number in dict.fromkeys(waiting):
            signal.raise_signal(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != IMPORTER:
        frame = frame.f_back
    return frame is not None


def _is_because_of_stop(error: BaseException | None) -> bool:
    """Return whether an error is `Stopped`, or was raised while `Stopped` was handled in a `finally` or `with`."""
    while error is not None and not isinstance(error, Stopped):
        error = error.__context__
    return error is not None


def _set_handlers(choose: Callable[[int], Any]) -> dict[int, Any]:
    """Set the handlers of all signals that are not ignored, and return the previous ones."""
    before: dict[int, Any] = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler in (signal.SIG_IGN, None):  # None: somebody's, and not of Python
            continue
        with contextlib.suppress(ValueError):  # not the main thread
            before[number] = signal.signal(number, choose(number))
    return before
