"""Whether all ranks are still there, and who tells the user when one is not.

Owns: `RollCall`: signs of life in the store that all ranks reach, and the end of a rank that waits for a lost one.
Does not own: the store and its ranks (`ranks.py`), the words (`last_words.py`).

Every rank counts up in the store, twice a second, in a thread. One that has something to say before it ends, an error
or a signal, leaves it there. So where a rank is lost, the others know whether it failed, was stopped, or is gone
without a word: killed, or its machine is off. Gloo's connections break when a process ends, and torchrun then sends
SIGTERM to the others, so that is usually known within seconds. Where neither happens, as when the machine is off or a
GPU waits for ever for the lost one's numbers, silence tells; then this thread wakes the main one, and if that does not
answer it ends the process.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from autoseg.distributed.last_words import ApartError, LastWords, explain_loss, last_words_of
from autoseg.errors import EXIT_RANK_LOST, AutosegError, EndedQuietlyError, RankLostError

BEAT_SECONDS = 0.5
SILENT_SECONDS = 15.0  # after which a rank is gone; one whose interpreter is held by one long call is silent too
ANSWER_SECONDS = 3.0  # that the others get to say why they end
SECONDS_TO_WAKE = 1.0  # from trouble to a signal for the main thread, which mostly knows by itself
SECONDS_TO_END = 6.0  # from there to the end of the process
BROKEN = "DistNetworkError"  # torch's error of a connection that will not come back, by name: torch is not loaded here

log = logging.getLogger("autoseg")


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
        self._store, self._rank, self._size, self._keeper, self._clock = store, rank, size, keeper, clock
        self._others = [other for other in range(size) if other != rank]
        self._beats: dict[int, bytes] = {}
        self._heard = dict.fromkeys(self._others, clock())
        self._words: dict[int, LastWords] = {}
        self._count, self._answered, self._is_cut = 0, clock(), False  # signs given; when the store answered; if ever
        self._place = ""
        self._told: BaseException | None = None
        self._is_ending = self._has_spoken = False
        self._lock, self._over = threading.Lock(), threading.Event()
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
        if self._is_cut or self._clock() - self._answered > SILENT_SECONDS:
            return True
        if any(words.kind != "done" for words in self._words.values()):
            return True
        return any(
            self._answered - self._heard[rank] > SILENT_SECONDS for rank in self._others if rank not in self._words
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
        if isinstance(error, RankLostError):
            return error
        self._is_ending, self._place = True, where or self._place
        own = last_words_of(error)
        self._speak(own)
        if own.kind == "failed":
            return error if self._rank == 0 else self._quiet_if_said(error, own)
        if self._told is None:  # torchrun's SIGTERM comes while the first answer is on its way
            self._told = self._verdict(error, own, gone=self._listen())
        return self._told

    def _verdict(self, error: BaseException, own: LastWords, *, gone: Sequence[int]) -> BaseException:
        others = self._words
        if self._is_cut and not gone:
            own, others = LastWords("apart", f"{self._keeper} is gone"), {}
        loss = explain_loss(own, others, gone=gone, size=self._size, place=self._place)
        is_first = self._rank == min(set(range(self._size)) - set(gone))
        if own.kind == "stopped" and not gone and not any(words.kind == "failed" for words in others.values()):
            return error if is_first else _quiet(own.code)
        return loss if is_first else _quiet(loss.exit_code)

    def _quiet_if_said(self, error: BaseException, own: LastWords) -> BaseException:
        """Leave an error that all ranks meet, such as a missing plan, to the first one."""
        self._listen(seconds=2 * BEAT_SECONDS, to=[0])
        first = self._words.get(0)
        is_said = first is not None and (first.kind, first.text) == (own.kind, own.text)
        return _quiet(own.code) if is_said else error

    def _listen(self, *, seconds: float = ANSWER_SECONDS, to: Sequence[int] | None = None) -> list[int]:
        """Wait until others have said something, or time is over; return those that gave no sign of life in it."""
        others = self._others if to is None else to
        self._look()
        start, beats = self._clock(), dict(self._beats)
        while self._clock() - start < seconds and not all(rank in self._words for rank in others):
            time.sleep(BEAT_SECONDS / 5)
            self._look()
        if self._is_cut:
            return [0] if self._keeper == "rank 0" else []
        return [rank for rank in others if rank not in self._words and self._beats.get(rank) == beats.get(rank)]

    def _speak(self, words: LastWords) -> None:
        """Leave last words, once."""
        if not self._has_spoken and not self._is_cut:
            self._has_spoken = True
            try:
                self._store.set(f"words/{self._rank}", words.to_json())
            except RuntimeError:
                log.debug("nobody keeps the last words")

    def _look(self) -> None:
        """Give a sign of life and look for those of the others."""
        with self._lock:  # both threads look
            if self._is_cut:
                return
            self._count += 1
            try:
                self._store.set(f"beat/{self._rank}", str(self._count))
                beats = self._store.multi_get([f"beat/{rank}" for rank in self._others])
                for rank in self._others:
                    if rank not in self._words and self._store.check([f"words/{rank}"]):
                        self._words[rank] = LastWords.from_json(self._store.get(f"words/{rank}"))
            except RuntimeError as error:  # the parent of torch's own; another one than BROKEN may pass
                self._is_cut = type(error).__name__ == BROKEN
                return
            self._answered = self._clock()
            for rank, beat in zip(self._others, beats, strict=True):
                if self._beats.get(rank) != beat:
                    self._beats[rank], self._heard[rank] = beat, self._answered

    def _watch(self) -> None:
        """Look until the end; where there is trouble and the main thread does not answer, wake it, then end it all."""
        since: float | None = None
        is_woken = False
        while not self._over.wait(BEAT_SECONDS):
            self._look()
            if not self.is_troubled() or self._is_ending:
                continue
            since = since or self._clock()
            if not is_woken and self._clock() - since > SECONDS_TO_WAKE:
                is_woken = True
                _wake_main_thread()
            if self._clock() - since > SECONDS_TO_WAKE + SECONDS_TO_END:
                self._end_all()

    def _end_all(self) -> None:
        """End a process whose main thread waits in another's code, which no signal reaches."""
        told = self.explain(ApartError("no answer"))
        if not isinstance(told, EndedQuietlyError):
            log.error("%s: %s What was not saved is done again.", type(told).__name__, told)
        os._exit(told.exit_code if isinstance(told, AutosegError) else EXIT_RANK_LOST)


def _quiet(code: int) -> EndedQuietlyError:
    return EndedQuietlyError("another rank says why all of them end. Look at its message.", exit_code=code)


def _wake_main_thread() -> None:
    """Send SIGTERM to this process where that is heard; it interrupts waiting, as a flag would not."""
    if callable(signal.getsignal(signal.SIGTERM)):
        os.kill(os.getpid(), signal.SIGTERM)
