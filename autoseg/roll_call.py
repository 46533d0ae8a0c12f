"""Whether all ranks are still there, and why one of them is not.

Owns: `RollCall`: signs of life in the store that all ranks reach, last words, and who says what when a run ends early.
Does not own: the store and its ranks (`ranks.py`).

Every rank counts up in the store, twice a second, in a thread. One that has something to say before it ends, an error
or a signal, leaves it there. So where a rank is lost, the others know whether it failed, was stopped, or is gone
without a word: killed, or its machine is off. Gloo's connections break when a process ends, and torchrun then sends
SIGTERM to the others, so that is usually known within seconds. Where neither happens, as when the machine is off or a
GPU waits for ever for the lost one's numbers, silence tells; then this thread wakes the main one, and if that does not
answer it ends the process.
"""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Protocol

from autoseg.errors import EXIT_RANK_LOST, AutosegError, EndedQuietlyError, RankLostError
from autoseg.stopping import Stopped

BEAT_SECONDS = 0.5
SILENT_SECONDS = 18.0  # after which a rank is gone; a process whose interpreter is held by one long call is silent too
ANSWER_SECONDS = 3.0  # that the others get to say why they end
SECONDS_TO_WAKE = 1.0  # from trouble to a signal for the main thread, which mostly knows by itself
SECONDS_TO_END = 8.0  # from there to the end of the process
MOST_LETTERS = 2000  # of last words

log = logging.getLogger("autoseg")


class ApartError(Exception):
    """The connection to the other ranks broke, or one of them ends; `RollCall.explain` finds out which and why."""


class Store(Protocol):
    """What is needed of torch's store; a missing key makes `get` and `multi_get` wait."""

    def set(self, key: str, value: str) -> None:
        """Keep a value."""

    def get(self, key: str) -> bytes:
        """Return it."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Return several."""

    def check(self, keys: list[str]) -> bool:
        """Say whether all are there."""

    def set_timeout(self, timeout: timedelta) -> None:
        """Set how long a call waits."""


@dataclass(frozen=True)
class LastWords:
    """What a rank leaves in the store when it ends.

    Attributes:
        kind: "done", "failed", "stopped" by a signal, or "apart": it lost the others.
        text: The error, or the name of the signal.
        code: The exit code that goes with it.
    """

    kind: str
    text: str = ""
    code: int = EXIT_RANK_LOST


class RollCall:
    """The signs of life of all ranks, as one of them sees them."""

    def __init__(
        self, store: Store, *, rank: int, size: int, keeper: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take a connection to the store that nobody else uses: another's waiting would silence this rank.

        Args:
            store: All ranks reach it.
            rank: This one.
            size: Number of all.
            keeper: Who keeps the store: "torchrun" or "rank 0".
            clock: Seconds.
        """
        self._keeper = keeper
        self._store, self._rank, self._size, self._clock = store, rank, size, clock
        self._others = [other for other in range(size) if other != rank]
        self._beats: dict[int, bytes] = {}
        self._heard = dict.fromkeys(self._others, clock())
        self._words: dict[int, LastWords] = {}
        self._answered, self._is_answered = clock(), True  # by the store
        self._count = 0
        self._place = ""
        self._told: BaseException | None = None
        self._lock = threading.Lock()
        self._is_ending = self._has_spoken = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="roll call", daemon=True)

    def sign_in(self) -> None:
        """Give a first sign of life."""
        self._store.set(f"beat/{self._rank}", "0")

    def missing(self) -> list[int]:
        """Return the ranks that have not signed in yet."""
        return [rank for rank in self._others if not self._store.check([f"beat/{rank}"])]

    def start(self) -> None:
        """Go on giving signs of life; all have signed in."""
        self._answered = self._clock()
        self._heard = dict.fromkeys(self._others, self._answered)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and tell the others that this rank ends as it should if nothing else was said."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._speak(LastWords("done"))

    def linger(self) -> None:
        """Keep the store a little longer, so that the others can read why this rank, which keeps it, ends."""
        self._listen()

    def is_troubled(self) -> bool:
        """Return whether a rank is gone or ends early, so that there is no use in waiting for it."""
        return (
            bool(self._gone(SILENT_SECONDS)) or self._is_deaf() or any(w.kind != "done" for w in self._words.values())
        )

    def explain(self, error: BaseException, *, where: str = "") -> BaseException:
        """Say why this rank ends, hear what the others say, and choose who tells the user what.

        Args:
            error: That ends this rank.
            where: How far the work is, such as "at step 17"; it stays for a later call.

        Returns:
            The error to raise in its place, or itself: a `RankLostError` on the first rank that is left, which says
            which other one is lost and why; `EndedQuietlyError` on the others.
        """
        if isinstance(error, RankLostError | EndedQuietlyError):
            return error
        self._is_ending, self._place = True, where or self._place
        own = _last_words(error)
        self._speak(own)
        if own.kind == "failed":
            return error if self._rank == 0 else self._quiet_if_said(error, own)
        if self._told is None:  # torchrun's SIGTERM comes while the first answer is on its way
            gone = self._listen()
            self._told = self._verdict(error, own, gone=gone)
        return self._told

    def _verdict(self, error: BaseException, own: LastWords, *, gone: Sequence[int]) -> BaseException:
        failed = [rank for rank in self._others if self._says(rank) == "failed"]
        stopped = [rank for rank in self._others if self._says(rank) == "stopped"]
        cause, remedy = "", "The same command continues it."
        is_first = self._rank == min(set(range(self._size)) - set(gone))
        if not self._is_answered:
            found, code, cause = f"{self._keeper}, which keeps {self._size} ranks together, is gone", EXIT_RANK_LOST, ""
            is_first = self._rank == (0 if self._keeper == "torchrun" else 1)
        elif gone:
            names = " and ".join(f"rank {rank}" for rank in gone)
            verb = "is" if len(gone) == 1 else "are"
            found, code = f"{names} of {self._size} {verb} gone", EXIT_RANK_LOST
            cause = " (killed, out of memory, or its machine is off)"
        elif failed:
            found, code = f"rank {failed[0]} of {self._size} failed", self._words[failed[0]].code
            cause, remedy = f": {self._words[failed[0]].text}", "Its own message says what to do."
        elif own.kind == "stopped":
            return error if is_first else EndedQuietlyError("the first rank says it.", exit_code=own.code)
        elif stopped:
            found = f"rank {stopped[0]} of {self._size} was stopped by {self._words[stopped[0]].text}"
            code = self._words[stopped[0]].code
        else:
            found, code = f"the {self._size} ranks lost each other ({own.text})", EXIT_RANK_LOST
        if not is_first:
            return EndedQuietlyError("the first rank that is left says why.", exit_code=code)
        place = f" {self._place}" if self._place else ""
        return RankLostError(f"{found}{cause}; the run stops{place}. {remedy}", exit_code=code)

    def _quiet_if_said(self, error: BaseException, own: LastWords) -> BaseException:
        """Leave an error that all ranks meet, such as a missing plan, to the first one."""
        self._listen(seconds=BEAT_SECONDS, to=[0])
        first = self._words.get(0)
        is_said = first is not None and (first.kind, first.text) == (own.kind, own.text)
        return EndedQuietlyError("the first rank says it.", exit_code=own.code) if is_said else error

    def _listen(self, *, seconds: float = ANSWER_SECONDS, to: Sequence[int] | None = None) -> list[int]:
        """Wait until all others have said something, or time is over; return those that gave no sign of life in it."""
        others = self._others if to is None else to
        start, beats = self._clock(), dict(self._beats)
        if not self._look():  # nobody can be heard any more: who keeps the store went first
            return []
        alive: set[int] = set()
        while True:
            alive |= {rank for rank in others if rank in self._words or self._beats.get(rank) != beats.get(rank)}
            if all(rank in self._words for rank in others) or self._clock() - start >= seconds:
                return [rank for rank in others if rank not in alive]
            time.sleep(BEAT_SECONDS / 5)
            if not self._look():
                return []

    def _says(self, rank: int) -> str:
        return self._words[rank].kind if rank in self._words else ""

    def _speak(self, words: LastWords) -> None:
        """Leave last words, once."""
        if self._has_spoken:
            return
        self._has_spoken = True
        try:
            self._store.set(f"words/{self._rank}", json.dumps(asdict(words)))
        except RuntimeError:
            log.debug("nobody keeps the last words")

    def _look(self) -> bool:
        """Give a sign of life and look for those of the others; say whether the store answers."""
        with self._lock:  # both threads look
            return self._look_alone()

    def _look_alone(self) -> bool:
        self._count += 1
        self._is_answered = False
        try:
            self._store.set(f"beat/{self._rank}", str(self._count))
            beats = self._store.multi_get([f"beat/{rank}" for rank in self._others])
            for rank in self._others:
                if rank not in self._words and self._store.check([f"words/{rank}"]):
                    self._words[rank] = _parse(self._store.get(f"words/{rank}"))
        except RuntimeError:  # torch has no class of its own for all that a broken connection gives
            return False
        self._is_answered = True
        self._answered = now = self._clock()
        for rank, beat in zip(self._others, beats, strict=True):
            if self._beats.get(rank) != beat:
                self._beats[rank], self._heard[rank] = beat, now
        return True

    def _gone(self, seconds: float) -> list[int]:
        if self._is_deaf():
            return []
        return [r for r in self._others if r not in self._words and self._answered - self._heard[r] > seconds]

    def _is_deaf(self) -> bool:
        return self._clock() - self._answered > SILENT_SECONDS

    def _watch(self) -> None:
        """Look until the end; where there is trouble and the main thread does not answer, wake it, then end it all."""
        since: float | None = None
        is_woken = False
        while not self._over.wait(BEAT_SECONDS):
            self._look()
            if not self.is_troubled():
                continue
            since = since or self._clock()
            passed = self._clock() - since
            if self._is_ending:
                continue
            if not is_woken and passed > SECONDS_TO_WAKE:
                is_woken = True
                wake_main_thread()
            if passed > SECONDS_TO_WAKE + SECONDS_TO_END:
                self._end_all()

    def _end_all(self) -> None:
        """End a process whose main thread waits in another's code, which no signal reaches."""
        told = self.explain(ApartError("no answer"))
        if isinstance(told, RankLostError):
            log.error("%s: %s What was not saved is done again.", type(told).__name__, told)
        os._exit(told.exit_code if isinstance(told, AutosegError) else EXIT_RANK_LOST)


def wake_main_thread() -> None:
    """Send SIGTERM to this process where that is heard; it interrupts waiting, as a flag would not."""
    if callable(signal.getsignal(signal.SIGTERM)):
        os.kill(os.getpid(), signal.SIGTERM)


def _last_words(error: BaseException) -> LastWords:
    if isinstance(error, Stopped | KeyboardInterrupt):
        number = error.signal_number if isinstance(error, Stopped) else int(signal.SIGINT)
        return LastWords("stopped", signal.Signals(number).name, 128 + number)
    if isinstance(error, ApartError):
        return LastWords("apart", str(error).partition("\n")[0][:200])
    code = error.exit_code if isinstance(error, AutosegError) else 1
    text = f"{type(error).__name__}: {error}".partition("\n")[0]
    return LastWords("failed", text[:MOST_LETTERS], code)


def _parse(content: bytes) -> LastWords:
    values: Mapping[str, Any] = json.loads(content)
    return LastWords(str(values["kind"]), str(values["text"]), int(values["code"]))
