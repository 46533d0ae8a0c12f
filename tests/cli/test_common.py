"""Errors become exit codes, and only bugs show a traceback."""

import errno
import logging
import os
import signal
from pathlib import Path

import pytest

from autoseg.cli.common import OPENMP_SPINS, build_parser, run_command
from autoseg.errors import DatasetError, LockedError, PlanError, Problem, UsageError
from autoseg.system.signals import SIGNALS


@pytest.fixture
def parser():
    parser = build_parser("autoseg_test", description="For a test.", example="autoseg_test --number 3")
    parser.add_argument("--number", type=int, default=0)
    return parser


@pytest.fixture(autouse=True)
def own_signal_handler():
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


def test_run_command_output_that_nobody_reads_exits_141(parser, capfd, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert run_command(parser, lambda _: print("some words") or 0, []) == 141
        closed.write("what is left in the buffer")
    assert capfd.readouterr().err == ""


def test_run_command_full_disk_without_better_words_exits_2(parser, capsys):
    def work(_arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    assert run_command(parser, work, []) == 2
    expected = "autoseg_test: somewhere cannot be written: No space left on device. Free space there"
    assert capsys.readouterr().err.startswith(expected)


def test_run_command_limits_threads_to_the_containers_cores(parser, monkeypatch):
    monkeypatch.setattr("autoseg.cli.common.find_num_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run_command(parser, lambda _: 0, [])
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    run_command(parser, lambda _: 0, [])
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS")
    run_command(parser, lambda _: 0, [])
    assert "OMP_NUM_THREADS" not in os.environ


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


@pytest.mark.parametrize("path", ["x" * 256, "a/" * 2500 + "b", "a\0b", "\u00fc" * 128])
def test_a_path_that_no_file_can_have_is_refused(path, capsys):
    parser = build_parser("x", description="", example="")
    parser.add_argument("-i", "--input", type=Path, nargs="+")
    assert run_command(parser, lambda arguments: 0, ["-i", "fine", path]) == 2
    assert "no file can have this name" in capsys.readouterr().err


def test_a_line_of_a_name_does_not_become_a_line_of_the_terminal(capsys):
    def work(_arguments):
        logging.getLogger("autoseg").warning("%s: done", "a\n  b\nautoseg_predict: 5 of 5 cases")
        raise PlanError("b\nc is no plan:\n  field: " + "x" * 10_000_000)

    assert run_command(build_parser("x", description="", example=""), work, []) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == r"a\n  b\nautoseg_predict: 5 of 5 cases: done"
    assert lines[1] == r"x: PlanError: b\nc is no plan:"
    assert lines[2].startswith("  field: xxx") and len(lines[2]) < 5000 and len(lines) == 3
