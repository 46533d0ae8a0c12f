"""What all commands share: the parser's form, messages on the terminal, and errors turned into exit codes.

Owns: `build_parser`, `run_command`.
"""

import argparse
import contextlib
import copy
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from autoseg.errors import (
    EXIT_BUG,
    EXIT_CODE_HELP,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    AutosegError,
    UsageError,
    printable,
)

OPENMP_SPINS = "1000"  # some microseconds
MOST_NAME_BYTES, MOST_PATH_BYTES = 255, 4000  # of a file or a folder, and of the way to it, on all usual systems
MOST_LETTERS = 4000  # of a line on the terminal; the longest of ours has some 600


class Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread so that `finally` clauses run."""


def build_parser(name: str, *, description: str, example: str) -> argparse.ArgumentParser:
    """Make a parser whose help ends with an example and the exit codes."""
    return argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=f"example:\n  {example}\n\n{EXIT_CODE_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None,
) -> int:
    """Parse, work, and return the exit code; no traceback for anything that a user can mend."""
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse ends the process itself: 0 after --help, 2 after an error
        return int(stop.code or 0)
    _show_messages()
    _raise_on_sigterm()
    _let_idle_threads_sleep()
    try:
        _refuse_impossible_paths(arguments)
        return work(arguments)
    except AutosegError as error:
        print(_printable_lines(f"{parser.prog}: {type(error).__name__}: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped by Ctrl-C; the same command continues.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Terminated:
        print(f"{parser.prog}: stopped by SIGTERM; the same command continues.", file=sys.stderr)
        return EXIT_TERMINATED
    except Exception:
        print("\n".join(map(printable, traceback.format_exc().splitlines())), file=sys.stderr)
        print(f"{parser.prog}: this is a bug of autoseg; please report the lines above.", file=sys.stderr)
        return EXIT_BUG


def _refuse_impossible_paths(arguments: argparse.Namespace) -> None:
    """Refuse paths that no file system could hold, of which every question to the system would fail in its own way."""
    for option, value in vars(arguments).items():
        for path in value if isinstance(value, list) else [value]:
            if not isinstance(path, Path):
                continue
            longest = max(map(len, map(os.fsencode, path.parts)), default=0)
            if "\0" in str(path) or longest > MOST_NAME_BYTES or len(os.fsencode(path)) > MOST_PATH_BYTES:
                raise UsageError(
                    f"{option} {str(path)!r:.80}: no file can have this name; expected at most {MOST_NAME_BYTES} bytes "
                    "a folder, and none that is zero. Give another path."
                )


class _SafeFormatter(logging.Formatter):
    """Messages hold names of files, cases and organs, which are untrusted text."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record = copy.copy(record)  # other handlers see it too
            record.args = tuple(printable(one) if isinstance(one, str) else one for one in record.args or ())
        return _printable_lines(super().format(record))


def _printable_lines(text: str) -> str:
    """Escape text line by line; our own messages indent all lines but the first, so another line is part of a name."""
    return "\n".join(printable(_cut(line)) for line in re.split(r"\n(?=  )", text))


def _cut(line: str) -> str:
    """Leave out the middle of a line that nobody would read: a name in a file can have a hundred million letters."""
    if len(line) <= MOST_LETTERS:
        return line
    return f"{line[: MOST_LETTERS // 2]} ... {line[-MOST_LETTERS // 2 :]}"


def _show_messages() -> None:
    """Send autoseg's own messages to the terminal, and other packages' only from warnings upwards."""
    log = logging.getLogger("autoseg")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_SafeFormatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def _let_idle_threads_sleep() -> None:
    """Have torch's threads sleep while they wait for each other, unless the user chose otherwise.

    GNU OpenMP's threads wait in a loop of some milliseconds. On cores that another program uses too, each wait then
    lasts until the scheduler lets the other thread in: a training step of two threads took 18 s in place of 0.5 s.
    Read when torch is loaded, so it is set before.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)


def _raise_on_sigterm() -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    with contextlib.suppress(ValueError):  # not the main thread (a test, a notebook): its owner handles signals
        signal.signal(signal.SIGTERM, stop)
