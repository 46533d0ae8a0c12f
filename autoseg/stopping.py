"""What ends a command from outside: Ctrl-C, SIGTERM, a closed terminal.

Owns: `stop_on_signals`, which turns them into exceptions so that `finally` clauses run, and `held_back`, which lets
them wait.
Does not own: exit codes and messages (`cli/common.py`).
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# of Windows, SIGHUP is missing
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SECONDS_OF_ONE = 1.0  # programs between us and the terminal pass on what the terminal has sent already


class Stopped(BaseException):
    """A signal arrived; raised in the main thread.

    Attributes:
        signal_number: Which.
    """

    def __init__(self, signal_number: int) -> None:
        """Keep the signal."""
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise `Stopped` in the main thread at a signal; elsewhere (a test, a notebook) its owner handles signals.

    A signal within a second of the first one is the same wish; a later one interrupts what the first one has begun,
    such as the saving of a state. After that the system's own way is back, which ends the process at once.
    Signals that are ignored stay so: `nohup` is heard.
    """
    arrived: list[float] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if arrived and now - arrived[0] < SECONDS_OF_ONE:
            return
        arrived.append(now)
        raise Stopped(number)

    before = _set_handlers(lambda _number: stop)
    try:
        yield
    finally:
        _set_handlers(lambda number: signal.SIG_DFL if arrived else before.get(number, signal.SIG_IGN))


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals wait until the end, for a few lines that must be done whole or not at all."""
    waiting: list[int] = []
    before = _set_handlers(lambda _number: lambda number, _frame: waiting.append(number))
    try:
        yield
    finally:
        _set_handlers(lambda number: before.get(number, signal.SIG_IGN))
        for number in dict.fromkeys(waiting):
            signal.raise_signal(number)


def _set_handlers(choose: Callable[[int], Any]) -> dict[int, Any]:
    """Set the handlers of all signals that are not ignored, and return those that were there."""
    before: dict[int, Any] = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler in (signal.SIG_IGN, None):  # None: somebody's, and not of Python
            continue
        with contextlib.suppress(ValueError):  # not the main thread
            before[number] = signal.signal(number, choose(number))
    return before
