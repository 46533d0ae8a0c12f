"""What a rank leaves behind when it ends, and what a user is told when a run of several ranks ends early.

Owns: `LastWords`, and the words about a lost rank.
Does not own: who is still there (`roll_call.py`).
"""

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from autoseg.errors import EXIT_BUG, EXIT_RANK_LOST, AutosegError, RankLostError
from autoseg.system.signals import Stopped

MOST_LETTERS = 2000
Kind = Literal["done", "failed", "stopped", "apart"]


class ApartError(Exception):
    """The connection to the other ranks broke, or one of them ends; which one and why is still to be found out."""


@dataclass(frozen=True)
class LastWords:
    """What a rank says when it ends.

    Attributes:
        kind: "done" as it should be, "failed" by an error of its own, "stopped" by a signal, "apart" from the others.
        text: The error, or the name of the signal.
        code: The exit code that goes with it.
    """

    kind: Kind
    text: str = ""
    code: int = EXIT_RANK_LOST

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, content: bytes) -> "LastWords":
        """Read what `to_json` gave."""
        values: Mapping[str, Any] = json.loads(content)
        return cls(values["kind"], str(values["text"]), int(values["code"]))


def last_words_of(error: BaseException) -> LastWords:
    """Say what ends this rank."""
    if isinstance(error, Stopped | KeyboardInterrupt):
        number = error.signal_number if isinstance(error, Stopped) else int(signal.SIGINT)
        return LastWords("stopped", signal.Signals(number).name, 128 + number)
    if isinstance(error, ApartError):
        return LastWords("apart", _first_line(error)[:200])
    code = error.exit_code if isinstance(error, AutosegError) else EXIT_BUG
    return LastWords("failed", f"{type(error).__name__}: {_first_line(error)}"[:MOST_LETTERS], code)


def explain_loss(
    own: LastWords, others: Mapping[int, LastWords], *, gone: Sequence[int], size: int, place: str
) -> RankLostError:
    """Say which rank was lost, and how.

    Args:
        own: This rank's.
        others: Of the ranks that had any.
        gone: Ranks that ended without any.
        size: Number of ranks.
        place: How far the work is, such as "at step 17", or nothing.

    Returns:
        The error that says it, with the exit code of what happened.
    """
    where = f" {place}" if place else ""
    if gone:
        names = " and ".join(f"rank {rank}" for rank in gone)
        return RankLostError(
            f"{names} of {size} {'is' if len(gone) == 1 else 'are'} gone (killed, out of memory, or its machine is "
            f"off); the run stops{where}. Start all ranks again: the same command continues."
        )
    for rank, words in others.items():
        if words.kind == "failed":
            return RankLostError(
                f"rank {rank} of {size} failed ({words.text}); the run stops{where}. Look at its own message.",
                exit_code=words.code,
            )
    for rank, words in others.items():
        if words.kind == "stopped":
            return RankLostError(
                f"rank {rank} of {size} was stopped by {words.text}; the run stops{where}. Start all ranks again: the "
                "same command continues.",
                exit_code=words.code,
            )
    return RankLostError(
        f"the {size} ranks lost each other ({own.text}); the run stops{where}. Start all ranks again: the same "
        "command continues."
    )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
