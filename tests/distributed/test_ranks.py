import json
import threading

import pytest

from autoseg.distributed import ranks as ranks_module
from autoseg.distributed.last_words import ApartError
from autoseg.distributed.ranks import (
    Ranks,
    _Talk,
    join_ranks,
    leads,
    local_rank,
    num_local_ranks,
    rank_name,
    tell_torchrun,
)
from autoseg.errors import UsageError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_ERROR_FILE")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_alone_is_the_first_of_one():
    with join_ranks() as ranks:
        assert ranks == Ranks(0, 1) and ranks.leads and leads() and local_rank() == 0 and num_local_ranks() == 1
        assert not ranks.is_started and rank_name() == ""
        ranks.wait()
        ranks.agree({"plan": "x"})
        assert ranks.share("abc") == ["a", "b", "c"]
        assert ranks.gather([1]) == [[1]] and ranks.from_lead("x") == "x"
        error = ValueError("x")
        assert ranks.explain(error) is error


def test_the_only_rank_of_torchrun_is_one_that_was_started(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with join_ranks() as ranks:
        assert ranks.is_started and ranks.size == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_even_and_each_item_has_one_rank(size):
    shares = [Ranks(rank, size).share(range(5)) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == list(range(5))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("rank", "size"), [("x", "2"), ("2", "2"), ("-1", "2"), ("0", "0"), ("", "1")])
def test_numbers_that_cannot_be_are_refused(monkeypatch, rank, size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UsageError, match=r"expected a"), join_ranks():
        pass


def test_several_ranks_without_an_address_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    message = r"MASTER_ADDR and MASTER_PORT are not\. Start all ranks with torchrun"
    with pytest.raises(UsageError, match=message), join_ranks():
        pass


def test_a_rank_that_does_not_come_is_named(monkeypatch):
    """The first rank keeps the store here, as without torchrun."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(ranks_module, "ARRIVAL_SECONDS", 0.2)
    from torch import distributed

    store = distributed.HashStore()
    monkeypatch.setattr(ranks_module, "_connect", lambda _purpose: store)
    with pytest.raises(UsageError, match=r"of 3 ranks 1, 2 did not come within 0 s"), join_ranks():
        pass


def test_names_of_ranks_and_their_share_of_a_machine(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert (rank_name(), num_local_ranks(), leads()) == ("rank 1 of 4", 2, False)


def test_values_reach_all_ranks(run_ranks):
    def work(ranks):
        ranks.wait()
        return ranks.gather({"rank": ranks.rank}), ranks.from_lead("first" if ranks.leads else "other")

    both = ([{"rank": 0}, {"rank": 1}, {"rank": 2}], "first")
    assert run_ranks(work, 3) == [both] * 3


def test_ranks_that_are_about_to_do_something_else_are_refused_with_both_values(run_ranks):
    def work(ranks):
        ranks.agree({"fold": "all", "length": [20 + ranks.rank, None]})

    expected = r"rank 1 of 2 has another length than the first one: \[21, None\], there \[20, None\]\. Start all ranks"
    with pytest.raises(UsageError, match=expected):
        run_ranks(work)
    assert run_ranks(lambda ranks: ranks.agree({"fold": "all"})) == [None, None]


class Troubled:
    """A roll call that notices trouble at the second look."""

    looks = 0

    def is_troubled(self):
        self.looks += 1
        return self.looks > 1


class Store(dict):
    """A dictionary with the methods of torch's store."""

    def set(self, key, value):
        self[key] = value

    def check(self, keys):
        return all(key in self for key in keys)

    def multi_get(self, keys):
        return [self[key] for key in keys]


def test_nobody_waits_for_a_rank_that_ended():
    talk = _Talk(Store(), Troubled(), prefix="x")
    with pytest.raises(ApartError, match="a rank ended early"):
        Ranks(0, 2, True, talk).wait()


def test_what_all_have_said_is_read_though_one_ended_since():
    store = Store({"gather/0/1": "7"})
    troubled = Troubled()
    troubled.looks = 9
    assert Ranks(0, 2, True, _Talk(store, troubled, prefix="x")).gather(3) == [3, 7]


def test_a_store_that_breaks_is_the_loss_of_the_others():
    class Broken(Store):
        def check(self, keys):
            raise RuntimeError("Broken pipe")

    with pytest.raises(ApartError, match="Broken pipe"):
        Ranks(0, 2, True, _Talk(Broken(), Troubled(), prefix="x")).wait()


def test_torchrun_finds_the_message_in_its_file(monkeypatch, tmp_path):
    tell_torchrun("nobody asked")
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    tell_torchrun("no plan")
    told = json.loads(path.read_text())["message"]
    assert told["message"] == told["extraInfo"]["py_callstack"] == "no plan"
    assert int(told["extraInfo"]["timestamp"]) > 1e9
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "no folder" / "error.json"))
    tell_torchrun("nowhere to write")


def test_the_threads_that_stand_in_for_ranks_end_when_one_fails(run_ranks):
    def work(ranks):
        if ranks.rank == 1:
            raise ValueError("of rank 1")
        ranks.wait()

    with pytest.raises(ValueError, match="of rank 1"):
        run_ranks(work)
    assert threading.active_count() < 20
