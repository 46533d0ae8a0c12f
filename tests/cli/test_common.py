"""Errors become exit codes, and only bugs show a traceback."""

import os
import signal

import pytest

from autoseg.cli.common import OPENMP_SPINS, build_parser, run_command
from autoseg.errors import DatasetError, LockedError, Problem, UsageError


@pytest.fixture
def parser():
    parser = build_parser("autoseg_test", description="For a test.", example="autoseg_test --number 3")
    parser.add_argument("--number", type=int, default=0)
    return parser


@pytest.fixture(autouse=True)
def own_signal_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_run_command_gives_the_arguments_and_returns_the_code(parser):
    assert run_command(parser, lambda arguments: arguments.number, ["--number", "3"]) == 3


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), (["--number", "x"], 2), (["--num", "3"], 2)])
def test_run_command_parser_ends_without_work(parser, argv, code, capsys):
    assert run_command(parser, lambda _: pytest.fail("worked"), argv) == code
    capsys.readouterr()


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (UsageError("-o is a file."), 2, "autoseg_test: UsageError: -o is a file.\n"),
        (LockedError("busy."), 75, "autoseg_test: LockedError: busy.\n"),
        (DatasetError("Bad.", problems=[Problem("a", "b.")]), 4, "autoseg_test: DatasetError: Bad.\n  a  b.\n"),
        (KeyboardInterrupt(), 130, "autoseg_test: stopped by Ctrl-C; the same command continues.\n"),
    ],
)
def test_run_command_expected_errors_have_a_code_and_no_traceback(parser, error, code, shown, capsys):
    def work(_arguments):
        raise error

    assert run_command(parser, work, []) == code
    assert capsys.readouterr().err == shown


def test_run_command_bug_shows_the_traceback_and_exits_1(parser, capsys):
    assert run_command(parser, lambda _: [][1], []) == 1
    printed = capsys.readouterr().err
    assert "IndexError" in printed
    assert "bug of autoseg" in printed


def test_run_command_sigterm_runs_finally_clauses_and_exits_143(parser, capsys):
    cleaned = []

    def work(_arguments):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)

    assert run_command(parser, work, []) == 143
    assert cleaned == [True]
    assert "SIGTERM" in capsys.readouterr().err


def test_run_command_lets_threads_sleep_unless_the_user_chose(parser, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    run_command(parser, lambda _: 0, [])
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    run_command(parser, lambda _: 0, [])
    assert os.environ["GOMP_SPINCOUNT"] == OPENMP_SPINS
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    run_command(parser, lambda _: 0, [])
    assert "GOMP_SPINCOUNT" not in os.environ
