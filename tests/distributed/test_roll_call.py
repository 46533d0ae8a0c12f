"""Ranks that share a dictionary in place of torch's store, and a clock that goes when somebody sleeps."""

import logging
import signal

import pytest

from autoseg.distributed import roll_call as module
from autoseg.distributed.last_words import ApartError
from autoseg.distributed.roll_call import RollCall
from autoseg.errors import DatasetError, EndedQuietlyError, RankLostError
from autoseg.system.signals import Stopped


class DistNetworkError(RuntimeError):
    """As torch calls it."""


class Store(dict):
    fails_with = None

    def set(self, key, value):
        self._perhaps_fail()
        self[key] = value.encode()

    def get(self, key):
        return self[key]

    def multi_get(self, keys):
        self._perhaps_fail()
        return [self[key] for key in keys]

    def check(self, keys):
        self._perhaps_fail()
        return all(key in self for key in keys)

    def _perhaps_fail(self):
        if self.fails_with is not None:
            raise self.fails_with


class World:
    """Some ranks and their time; ranks that are alive give signs of life whenever somebody sleeps."""

    def __init__(self, size, *, keeper="torchrun"):
        self.now, self.store = 100.0, Store()
        self.calls = [
            RollCall(self.store, rank=rank, size=size, keeper=keeper, clock=lambda: self.now) for rank in range(size)
        ]
        self.alive = set(range(size))
        for call in self.calls:
            call.sign_in()
        for call in self.calls:
            call._look()

    def sleep(self, seconds):
        self.now += seconds
        for rank in self.alive:
            self.calls[rank]._look()


@pytest.fixture
def world(monkeypatch):
    def make(size, **named):
        made = World(size, **named)
        monkeypatch.setattr(module.time, "sleep", made.sleep)
        return made

    return make


def test_a_rank_that_signed_in_is_not_missing():
    store = Store()
    one, other = (RollCall(store, rank=rank, size=2, keeper="rank 0") for rank in range(2))
    one.sign_in()
    assert one.missing() == [1] and other.missing() == []
    other.sign_in()
    assert one.missing() == []


def test_silence_is_trouble_after_some_time_and_signs_of_life_are_none(world):
    three = world(3)
    three.alive -= {2}
    for _ in range(14):
        three.sleep(1.0)
    assert not three.calls[0].is_troubled()
    for _ in range(3):
        three.sleep(1.0)
    assert three.calls[0].is_troubled() and three.calls[1].is_troubled()


def test_a_rank_that_ended_as_it_should_is_no_trouble(world):
    two = world(2)
    two.alive -= {1}
    two.calls[1].stop()
    for _ in range(40):
        two.sleep(1.0)
    assert not two.calls[0].is_troubled()


def test_of_a_killed_rank_the_first_that_is_left_tells_and_the_others_are_quiet(world):
    three = world(3)
    three.alive -= {0}
    told = [three.calls[rank].explain(ApartError("closed"), where="at step 9") for rank in (1, 2)]
    assert type(told[0]) is RankLostError and type(told[1]) is EndedQuietlyError
    assert str(told[0]).startswith("rank 0 of 3 is gone") and "the run stops at step 9." in str(told[0])
    assert told[0].exit_code == told[1].exit_code == 69
    assert three.now < 110


def test_a_signal_that_torchrun_sends_after_a_kill_does_not_hide_it(world):
    two = world(2)
    two.alive -= {1}
    first = two.calls[0].explain(ApartError("closed"), where="at step 9")
    again = two.calls[0].explain(Stopped(signal.SIGTERM))
    assert again is first and "rank 1 of 2 is gone" in str(again)
    other = world(2)
    other.alive -= {1}
    assert "rank 1 of 2 is gone" in str(other.calls[0].explain(Stopped(signal.SIGTERM)))


def test_of_a_rank_that_fails_the_code_is_taken_and_its_words_repeated(world):
    two = world(2)
    error = DatasetError("3 cases are damaged")
    two.alive -= {1}
    assert two.calls[1].explain(error) is error
    told = two.calls[0].explain(Stopped(signal.SIGTERM), where="at step 9")
    assert str(told).startswith("rank 1 of 2 failed (DatasetError: 3 cases are damaged); the run stops at step 9.")
    assert told.exit_code == 4


def test_an_error_that_all_ranks_meet_is_told_by_the_first(world):
    three = world(3)
    errors = [DatasetError("no plan"), DatasetError("no plan"), DatasetError("another")]
    told = [call.explain(error) for call, error in zip(three.calls, errors, strict=True)]
    assert told[0] is errors[0] and isinstance(told[1], EndedQuietlyError) and told[2] is errors[2]
    assert told[1].exit_code == 4


def test_a_stop_of_all_is_told_by_the_first(world):
    two = world(2)
    stops = [Stopped(signal.SIGINT) for _ in range(2)]
    other = two.calls[1].explain(stops[1])  # while the first one is on its way
    assert two.calls[0].explain(stops[0]) is stops[0]
    assert isinstance(other, EndedQuietlyError) and other.exit_code == 130


def test_a_rank_that_is_slow_but_alive_is_not_gone(world):
    two = world(2)
    assert "lost each other (closed)" in str(two.calls[0].explain(ApartError("closed")))


@pytest.mark.parametrize(
    ("keeper", "rank", "words"),
    [
        ("torchrun", 0, "the 2 ranks lost each other (torchrun is gone)"),
        ("torchrun", 1, None),
        ("rank 0", 1, "rank 0 of 2 is gone"),
    ],
)
def test_a_store_that_is_gone_is_noticed_at_once_and_its_keeper_named(world, keeper, rank, words):
    two = world(2, keeper=keeper)
    two.store.fails_with = DistNetworkError("Broken pipe")
    two.sleep(0.1)
    assert two.calls[rank].is_troubled()
    told = two.calls[rank].explain(ApartError("closed"))
    assert isinstance(told, EndedQuietlyError) if words is None else str(told).startswith(words)


def test_a_store_that_is_slow_once_is_not_gone(world):
    two = world(2)
    two.store.fails_with = RuntimeError("Timeout")
    two.sleep(0.1)
    assert not two.calls[0].is_troubled()
    two.store.fails_with = None
    two.sleep(0.1)
    two.alive -= {1}
    assert "rank 1 of 2 is gone" in str(two.calls[0].explain(ApartError("closed")))


def test_an_error_that_was_explained_stays(world):
    error = RankLostError("said")
    assert world(2).calls[0].explain(error) is error


class Over:
    """An event that lets the watching thread look some times, half a second apart."""

    def __init__(self, world, times):
        self.world, self.left = world, times

    def wait(self, seconds):
        self.left -= 1
        self.world.sleep(seconds)
        return self.left < 0


def test_a_main_thread_that_does_not_answer_is_woken_and_then_ended_within_half_a_minute(world, monkeypatch, caplog):
    two = world(2)
    two.alive = set()
    ended, woken = [], []
    monkeypatch.setattr(module.os, "_exit", lambda code: ended.append((code, two.now)))
    monkeypatch.setattr(module, "_wake_main_thread", lambda: woken.append(two.now))
    two.calls[0]._over = Over(two, 70)
    with caplog.at_level(logging.ERROR, logger="autoseg"):
        two.calls[0]._watch()
    assert len(woken) == 1 and woken[0] - 100 < 18
    assert ended[0][0] == 69 and ended[0][1] - 100 < 28
    assert "RankLostError: rank 1 of 2 is gone" in caplog.text


def test_a_main_thread_that_is_ending_is_left_alone(world, monkeypatch):
    two = world(2)
    two.alive -= {1}
    two.calls[0].explain(ApartError("closed"))
    codes = []
    monkeypatch.setattr(module.os, "_exit", codes.append)
    two.calls[0]._over = Over(two, 100)
    two.calls[0]._watch()
    assert codes == []


def test_a_signal_wakes_a_process_only_where_it_is_heard(monkeypatch):
    sent = []
    monkeypatch.setattr(module.os, "kill", lambda _pid, number: sent.append(number))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        module._wake_main_thread()
        assert sent == []
        signal.signal(signal.SIGTERM, lambda *_: None)
        module._wake_main_thread()
        assert sent == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
