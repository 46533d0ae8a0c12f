"""Defines the errors that autoseg raises on purpose, and the exit codes of commands.

Owns: the exception classes, and `Problem`, one finding about one case.
Does not own: how a command prints them (`cli/common.py`).

Every message says what is wrong with which value, what was expected, where, and what to do about it.

Example:
    >>> try:
    ...     autoseg.plan("my_dataset", "my_run")
    ... except autoseg.DatasetError as error:
    ...     for problem in error.problems:
    ...         print(problem.case_id, problem.message)
"""

from collections.abc import Sequence
from dataclasses import dataclass

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_SOME_CASES_FAILED = 3
EXIT_NOTHING_USABLE = 4
EXIT_RANK_LOST = 69  # EX_UNAVAILABLE: something that the work needs is not there
EXIT_LOCKED = 75
EXIT_HUNG_UP = 129
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
EXIT_TERMINATED = 143

EXIT_CODE_HELP = (
    "exit codes: 0 all done, 1 a bug of autoseg, 2 usage or configuration, 3 some cases failed (the report names "
    "them), 4 nothing usable, 69 another rank is gone, 75 locked by another run, 129 the terminal was closed, 130 "
    "Ctrl-C, 141 the output pipe was closed, 143 SIGTERM"
)


@dataclass(frozen=True)
class Problem:
    """An error or a warning about one case of a dataset.

    Attributes:
        case_id: The name of the case, or "" for the dataset as a whole.
        message: The value, what was expected, and the remedy, in one or two sentences.
        is_error: False for a warning.
    """

    case_id: str
    message: str
    is_error: bool = True


class AutosegError(Exception):
    """The base class of all errors that a user can do something about."""

    exit_code = EXIT_USAGE


class UsageError(AutosegError):
    """A command or function was called with invalid arguments."""


class OutputError(UsageError):
    """An output cannot be written. For a case, the disk is full or broken, so that every other case would fail too."""


class PlanError(AutosegError):
    """A plan, an overlay or a `--set` does not describe a possible run."""


class TrainingError(AutosegError):
    """Training cannot continue, because of the data or the plan."""


class CheckpointError(AutosegError):
    """A model or training state is damaged, or belongs to another plan."""


class ScanFileError(AutosegError):
    """A scan file cannot be read, or cannot be trusted."""

    exit_code = EXIT_NOTHING_USABLE


class GeometryError(AutosegError):
    """A grid is impossible, or two grids that must agree do not."""

    exit_code = EXIT_NOTHING_USABLE


class LockedError(AutosegError):
    """Another process works on the same folder."""

    exit_code = EXIT_LOCKED


class RankLostError(AutosegError):
    """Another rank of this run is gone or ended early, so this one cannot continue.

    Attributes:
        exit_code: The exit code of the lost rank, if it is known.
    """

    exit_code = EXIT_RANK_LOST

    def __init__(self, message: str, *, exit_code: int = EXIT_RANK_LOST) -> None:
        """Store the exit code with the message."""
        super().__init__(message)
        self.exit_code = exit_code


class EndedQuietlyError(RankLostError):
    """This process ends together with others, and another one reports the reason."""


class DatasetError(AutosegError):
    """A dataset cannot be used; `problems` lists everything that was found, not only the first."""

    exit_code = EXIT_NOTHING_USABLE

    def __init__(self, headline: str, *, problems: Sequence[Problem] = ()) -> None:
        """Store the problems with their headline; `str()` shows them as a table."""
        super().__init__(headline)
        self.headline = headline
        self.problems = tuple(problems)

    def __str__(self) -> str:
        """Return the headline and one line per problem, with aligned names of cases."""
        return "\n".join([self.headline, *format_problems(self.problems)])


def format_problems(problems: Sequence[Problem]) -> list[str]:
    """Return problems as the lines of a table: case, then message; control characters are made visible."""
    width = max((len(printable(problem.case_id)) for problem in problems), default=0)
    mark = {True: "", False: "(warning) "}
    return [f"  {printable(p.case_id):<{width}}  {mark[p.is_error]}{printable(p.message)}" for p in problems]


def printable(text: str) -> str:
    """Escape characters that control a terminal, since names of files and labels are untrusted text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
