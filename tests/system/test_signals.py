import contextlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from autoseg.errors import OutputError
from autoseg.system.signals import SIGNALS, Stopped, defer_signals, stop_on_signals


@pytest.fixture(autouse=True)
def own_handlers():
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    if signal.SIGHUP in SIGNALS:  # where the tests were started by nohup it is ignored, and stays so
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_for(seconds):
    """Wait in steps: a single long sleep would not notice that a signal got lost."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_raised_and_finally_clauses_run(number):
    cleaned = []
    with pytest.raises(Stopped) as stopped, stop_on_signals():
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(number)
    assert stopped.value.signal_number == number and cleaned == [number]


def test_without_a_signal_the_handlers_are_as_before():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyError), stop_on_signals():
        raise KeyError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_is_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signals():
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_second_signal_at_once_is_the_same_wish_and_lets_cleaning_up_end():
    cleaned = []
    with pytest.raises(Stopped), stop_on_signals():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            wait_for(0.3)
            cleaned.append(True)
    assert cleaned == [True]


def test_a_second_signal_later_interrupts_cleaning_up(monkeypatch):
    monkeypatch.setattr("autoseg.system.signals.SECONDS_OF_ONE", 0.05)
    with pytest.raises(Stopped) as stopped, stop_on_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            wait_for(0.1)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("went on")
    assert stopped.value.signal_number == signal.SIGTERM  # the first one counts


def test_a_signal_that_gets_lost_is_raised_again():
    swallowed = []
    with pytest.raises(Stopped), stop_on_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            swallowed.append(type(error))
        wait_for(5)
        pytest.fail("went on")
    assert swallowed == [Stopped]


def test_cleaning_up_in_generators_and_with_blocks_is_let_be():
    done = []

    class Slow:
        def __enter__(self):
            return self

        def __exit__(self, *_error):
            wait_for(0.3)
            done.append("with")

    def generate():
        try:
            yield 1
        finally:
            wait_for(0.3)
            done.append("generator")

    with pytest.raises(Stopped), stop_on_signals(), Slow():
        numbers = generate()
        next(numbers)
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            numbers.close()
    assert done == ["generator", "with"]


def test_an_error_that_a_signal_has_become_is_the_signal():
    with pytest.raises(Stopped), stop_on_signals():
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        raise ValueError("could not determine the shape")


def test_what_fails_while_cleaning_up_is_told():
    with pytest.raises(OutputError, match="full"), stop_on_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise OutputError("full")


def test_a_signal_waits_for_the_end_of_an_import(tmp_path, monkeypatch):
    module = """
import signal, time
try:
    signal.raise_signal(signal.SIGTERM)
    time.sleep(0.3)
    is_whole = True
except BaseException:
    is_whole = False
"""
    (tmp_path / "tries_out.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Stopped), stop_on_signals():
        import tries_out

        wait_for(5)
        pytest.fail("went on")
    assert tries_out.is_whole


def test_held_back_lets_signals_wait_until_the_end():
    done = []
    with pytest.raises(Stopped), stop_on_signals():
        with defer_signals():
            signal.raise_signal(signal.SIGINT)
            wait_for(0.2)
            done.append("whole")
        done.append("more")
    assert done == ["whole"]


def test_held_back_ends_with_the_handlers_as_before_also_after_an_error():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="x"), defer_signals():
        raise ValueError("x")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_held_back_in_another_thread_leaves_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with defer_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_another_signal_after_the_end_ends_the_process_at_once():
    program = """
import os, signal, sys, time
import autoseg.system.signals
autoseg.system.signals.SECONDS_OF_ONE = 0.05
try:
    with autoseg.system.signals.stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
except autoseg.system.signals.Stopped:
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 143
