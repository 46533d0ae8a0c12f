import io
import logging
import sys
import time

import pytest

from autoseg.system import progress
from autoseg.system.progress import ProgressBar, log_item, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch):
    """Put a terminal in place of stderr; called in the test itself, since pytest sets stderr again after fixtures."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.fixture
def clock(monkeypatch):
    """Make time stand still but for what a test adds to the returned list."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: sum(now))
    return now


@pytest.fixture
def no_terminal(monkeypatch, caplog):
    monkeypatch.setattr(progress, "_is_terminal", lambda: False)
    caplog.set_level(logging.INFO, logger="autoseg")
    return caplog


def test_track_off_a_terminal_gives_plain_lines_now_and_then(no_terminal, clock):
    for _ in track(range(4), what="reading scans"):
        clock.append(10.0)
    assert [record.message for record in no_terminal.records] == ["reading scans: 2 of 4 cases after 20 s"]


def test_track_gives_every_item_and_is_silent_when_quick(no_terminal):
    assert list(track(iter("abc"), what="work", total=3)) == ["a", "b", "c"]
    assert no_terminal.records == []


def test_track_on_a_terminal_draws_a_bar(monkeypatch):
    stream = terminal(monkeypatch)
    assert list(track(range(3), what="work")) == [0, 1, 2]
    assert "work:   0%" in stream.getvalue()
    assert "0/3" in stream.getvalue()


def test_progress_bar_off_a_terminal_tells_the_end_always(no_terminal, clock):
    with ProgressBar(what="training", total=100, unit="%") as bar:
        bar.advance_to(10, note="quick")
        clock.append(20.0)
        bar.advance_to(40, note="loss 0.5")
        bar.advance_to(100, note="loss 0.1")
    assert [record.message for record in no_terminal.records] == [
        "training: 40% after 20 s, loss 0.5",
        "training: 100% after 20 s, loss 0.1",
    ]


def test_progress_bar_on_a_terminal_shows_share_and_note(monkeypatch):
    stream = terminal(monkeypatch)
    with ProgressBar(what="training", total=100, unit="%") as bar:
        time.sleep(0.12)  # tqdm draws ten times a second at most
        bar.advance_to(40, note="loss 0.5")
    assert "training:" in stream.getvalue()
    assert "40%" in stream.getvalue()
    assert "loss 0.5" in stream.getvalue()


def test_tell_speaks_only_where_there_is_no_bar(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="autoseg")
    for is_terminal in (True, False):
        monkeypatch.setattr(progress, "_is_terminal", lambda is_terminal=is_terminal: is_terminal)
        log_item("%s: done, %s", "one", is_terminal)
    assert [record.message for record in caplog.records] == ["one: done, False"]
