"""Contains what all commands share: the form of the parser, messages on the terminal, exit codes of errors.

Owns: `build_parser`, `run_command`.
Does not own: the handling of signals (`system/signals.py`).
"""

import argparse
import contextlib
import copy
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from autoseg.distributed.ranks import is_local_rank, is_main_rank, num_local_ranks, rank_name, report_to_torchrun
from autoseg.errors import (
    EXIT_BUG,
    EXIT_CODE_HELP,
    EXIT_HUNG_UP,
    EXIT_INTERRUPTED,
    EXIT_PIPE_CLOSED,
    EXIT_TERMINATED,
    EXIT_USAGE,
    AutosegError,
    RankLostError,
    UsageError,
    printable,
)
from autoseg.system.atomic_files import explain_write_error, find_disk_fault
from autoseg.system.resources import end_with_parent, find_num_cores
from autoseg.system.signals import Stopped, stop_on_signals

OPENMP_SPINS = "1000"  # some microseconds
MOST_NAME_BYTES, MOST_PATH_BYTES = 255, 4000  # of a file or folder, and of its path, on all common systems
MOST_LETTERS = 4000  # of a line on the terminal; the longest message has some 600
STOPS = {
    "SIGINT": (EXIT_INTERRUPTED, "Ctrl-C"),
    "SIGTERM": (EXIT_TERMINATED, "SIGTERM"),
    "SIGHUP": (EXIT_HUNG_UP, "the end of its terminal"),
}


def build_parser(name: str, *, description: str, example: str) -> argparse.ArgumentParser:
    """Build a parser whose help ends with an example and the exit codes."""
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
    """Parse the arguments, run the work, and return the exit code; a traceback is printed only for bugs."""
    program = parser.prog
    try:
        with _silent_beside_rank_0():
            arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse ends the process itself: 0 after --help, 2 after an error
        return int(stop.code or 0)
    _show_messages()
    try:
        with stop_on_signals():
            if is_local_rank():
                end_with_parent(os.getppid())
            _use_cores_well()
            _refuse_impossible_paths(arguments)
            code = work(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except Stopped as stop:
        code, reason = STOPS[signal.Signals(stop.signal_number).name]
        too = ", which torchrun sends when another rank ends, too" if rank_name() and reason == "SIGTERM" else ""
        _say(f"{program}: stopped by {reason}{too}; the same command continues.")
        return code
    except RankLostError as error:
        if not is_local_rank():  # rank 0 of this machine speaks for all of them
            _say(f"{program}: {type(error).__name__}: {error}")
        return error.exit_code
    except AutosegError as error:
        _say(f"{program}: {type(error).__name__}: {error}")
        return error.exit_code
    except KeyboardInterrupt:  # no signal of ours: not the main thread
        _say(f"{program}: stopped by Ctrl-C; the same command continues.")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        _give_up_stdout()
        return EXIT_PIPE_CLOSED
    except Exception as error:
        fault = find_disk_fault(error)
        if fault is not None:  # while printing, or where no module has a better message
            _give_up_stdout()
            _say(f"{program}: {explain_write_error(fault, 'the output')}")
            return EXIT_USAGE
        with contextlib.suppress(OSError):
            print("\n".join(map(printable, traceback.format_exc().splitlines())), file=sys.stderr)
        _say(f"{program}: this is a bug of autoseg; please report the lines above.")
        return EXIT_BUG


def _say(text: str) -> None:
    """Print lines to the terminal, which may be closed, and report them to torchrun if it started this process."""
    lines = _printable_lines(text)
    report_to_torchrun(lines)
    with contextlib.suppress(OSError, ValueError):
        print(lines if _is_main_rank() else f"{rank_name()}: {lines}", file=sys.stderr, flush=True)


def _is_main_rank() -> bool:
    try:
        return is_main_rank()
    except UsageError:  # an invalid variable, which the command reports
        return True


@contextmanager
def _silent_beside_rank_0() -> Iterator[None]:
    """Suppress the output of ranks other than 0, which would repeat the help or the errors of the arguments."""
    if _is_main_rank():
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _give_up_stdout() -> None:
    """Redirect stdout to nowhere, since Python would report an error when it flushes its buffer at the end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _refuse_impossible_paths(arguments: argparse.Namespace) -> None:
    """Refuse paths that are not valid on any file system, for which each system call would fail differently."""
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
    """Escapes names of files, cases and organs in messages, which are untrusted text."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record = copy.copy(record)  # other handlers see it too
            record.args = tuple(printable(one) if isinstance(one, str) else one for one in record.args or ())
        return _printable_lines(super().format(record))


def _printable_lines(text: str) -> str:
    """Escape text line by line; autoseg indents all lines but the first, so other line breaks are part of a name."""
    return "\n".join(printable(_cut(line)) for line in re.split(r"\n(?=  )", text))


def _cut(line: str) -> str:
    """Shorten a long line in the middle, since a name in a file may have a hundred million letters."""
    if len(line) <= MOST_LETTERS:
        return line
    return f"{line[: MOST_LETTERS // 2]} ... {line[-MOST_LETTERS // 2 :]}"


def _show_messages() -> None:
    """Show autoseg's messages on the terminal; of other packages, and of ranks other than 0, only warnings."""
    log = logging.getLogger("autoseg")
    handler = logging.StreamHandler(sys.stderr)
    is_first = _is_main_rank()
    handler.setFormatter(_SafeFormatter("%(message)s" if is_first else f"{rank_name()}: %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO if is_first else logging.WARNING)
    log.propagate = False


def _use_cores_well() -> None:
    """Limit torch's threads to the available cores, and let them sleep while they wait for each other.

    Variables that the user has set stay. They are set before torch is loaded, which reads them. Torch counts the cores
    of the machine, of which a container may have only some. Several ranks on a machine divide its cores; torchrun gives
    each only one.

    GNU OpenMP's threads wait in a busy loop. On cores that another program uses too, each wait then lasts until the
    scheduler runs the other thread: a training step with two threads took 18 s instead of 0.5 s.
    """
    if rank_name():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # without long warnings that the other ranks are gone
    cores = max(1, find_num_cores() // num_local_ranks())
    if num_local_ranks() > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        os.environ["OMP_NUM_THREADS"] = str(cores)
    if cores < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)
