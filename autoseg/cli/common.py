"""What all commands share: the parser's form, messages on the terminal, and errors turned into exit codes.

Owns: `build_parser`, `run_command`.
Does not own: what a signal does (`stopping.py`).
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from autoseg.errors import (
    EXIT_BUG,
    EXIT_CODE_HELP,
    EXIT_HUNG_UP,
    EXIT_INTERRUPTED,
    EXIT_PIPE_CLOSED,
    EXIT_TERMINATED,
    EXIT_USAGE,
    AutosegError,
    printable,
)
from autoseg.files import explain_write_error, find_disk_fault
from autoseg.machine import find_num_cores
from autoseg.stopping import Stopped, stop_on_signals

OPENMP_SPINS = "1000"  # some microseconds
STOPS = {
    "SIGINT": (EXIT_INTERRUPTED, "Ctrl-C"),
    "SIGTERM": (EXIT_TERMINATED, "SIGTERM"),
    "SIGHUP": (EXIT_HUNG_UP, "the end of its terminal"),
}


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
    _use_cores_well()
    return _run(parser.prog, work, arguments)


def _run(program: str, work: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Work, and turn signals and errors into messages and exit codes."""
    try:
        with stop_on_signals():
            code = work(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except Stopped as stop:
        code, reason = STOPS[signal.Signals(stop.signal_number).name]
        _say(f"{program}: stopped by {reason}; the same command continues.")
        return code
    except AutosegError as error:
        _say(f"{program}: {type(error).__name__}: {error}")
        return error.exit_code
    except KeyboardInterrupt:  # no signal of ours: not the main thread
        _say(f"{program}: stopped by Ctrl-C; the same command continues.")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # what reads our output, such as `head`, has ended: as every program, we do too
        _give_up_stdout()
        return EXIT_PIPE_CLOSED
    except Exception as error:
        fault = find_disk_fault(error)
        if fault is not None:  # of the terminal's file, or where no module has better words
            _give_up_stdout()
            _say(f"{program}: {explain_write_error(fault, 'the output')}")
            return EXIT_USAGE
        with contextlib.suppress(OSError):
            traceback.print_exc()
        _say(f"{program}: this is a bug of autoseg; please report the lines above.")
        return EXIT_BUG


def _say(text: str) -> None:
    """Print lines to the terminal, which may be gone."""
    with contextlib.suppress(OSError, ValueError):
        print(_printable_lines(text), file=sys.stderr, flush=True)


def _give_up_stdout() -> None:
    """Let Python have somewhere to write what is left in its buffer, or it would complain of that when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _SafeFormatter(logging.Formatter):
    """Messages hold names of files, cases and organs, which are untrusted text."""

    def format(self, record: logging.LogRecord) -> str:
        return _printable_lines(super().format(record))


def _printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def _show_messages() -> None:
    """Send autoseg's own messages to the terminal, and other packages' only from warnings upwards."""
    log = logging.getLogger("autoseg")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_SafeFormatter("%(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def _use_cores_well() -> None:
    """Have torch take no more threads than there are cores, and let them sleep while they wait for each other.

    Both unless the user chose otherwise, and read when torch is loaded, so they are set before. Torch counts the
    machine's cores, of which a container may have a few.

    GNU OpenMP's threads wait in a loop of some milliseconds. On cores that another program uses too, each wait then
    lasts until the scheduler lets the other thread in: a training step of two threads took 18 s in place of 0.5 s.
    """
    if find_num_cores() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(find_num_cores()))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)
