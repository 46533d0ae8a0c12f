"""What the ranks of a run exchange; the ranks are threads of this process."""

import json

import pytest
import torch

from autoseg.distributed.ranks import (
    LostConnectionError,
    Ranks,
    is_main_rank,
    join_ranks,
    local_rank,
    num_local_ranks,
    rank_name,
    report_to_torchrun,
)
from autoseg.errors import RankLostError, UsageError
from autoseg.system.signals import Stopped

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_process_that_is_alone_is_rank_0_of_1():
    with join_ranks() as ranks:
        assert ranks == Ranks(0, 1) and ranks.is_main and is_main_rank() and rank_name() == ""
        assert (local_rank(), num_local_ranks()) == (0, 1)
        ranks.barrier()
        ranks.require_equal({"plan": "x"})
        assert ranks.shard("abc") == ["a", "b", "c"]
        assert ranks.all_gather([1]) == [[1]] and ranks.broadcast("x") == "x"
        assert ranks.all_reduce(torch.ones(2)).tolist() == [1, 1]
        error = ValueError("x")
        assert ranks.explain(error) is error


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shards_are_even_and_each_item_has_one_rank(world_size):
    shards = [Ranks(rank, world_size).shard(range(5)) for rank in range(world_size)]
    assert sorted(item for shard in shards for item in shard) == list(range(5))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(("rank", "size"), [("x", "2"), ("2", "2"), ("-1", "2"), ("0", "0"), ("", "1")])
def test_impossible_numbers_are_refused(monkeypatch, rank, size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UsageError), join_ranks():
        pass


def test_several_ranks_without_an_address_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="MASTER_ADDR and MASTER_PORT"), join_ranks():
        pass


def test_names_of_ranks_and_their_number_on_a_machine(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert (rank_name(), num_local_ranks(), is_main_rank()) == ("rank 1 of 4", 2, False)


def test_values_and_sums_reach_all_ranks(run_ranks):
    def work(ranks):
        ranks.barrier()
        total = ranks.all_reduce(torch.tensor([1.0, ranks.rank]))
        return ranks.all_gather({"rank": ranks.rank}), ranks.broadcast(f"of {ranks.rank}"), total.tolist()

    assert run_ranks(work, 3) == [([{"rank": 0}, {"rank": 1}, {"rank": 2}], "of 0", [3.0, 3.0])] * 3


@pytest.mark.fault("ranks-disagree")
def test_ranks_that_are_about_to_do_something_else_are_refused_with_both_values(run_ranks):
    def work(ranks):
        ranks.require_equal({"fold": "all", "length": [20 + ranks.rank, None]})

    with pytest.raises(UsageError, match=r"rank 1 of 2.*length.*\[21, None\].*\[20, None\]"):
        run_ranks(work)


class Connection:
    """A group that is complete or not."""

    def __init__(self, *, is_complete):
        self.complete = is_complete

    def is_complete(self):
        return self.complete


def test_a_lost_connection_and_a_signal_because_of_it_become_one_error():
    lost, kept = (Ranks(0, 2, group=Connection(is_complete=one)) for one in (False, True))
    for ranks, error in ((lost, Stopped(15)), (lost, LostConnectionError("x")), (kept, LostConnectionError("x"))):
        explained = ranks.explain(error, where="at step 17")
        assert isinstance(explained, RankLostError) and explained.exit_code == 69 and "at step 17" in str(explained)
    stop = Stopped(15)
    assert kept.explain(stop) is stop  # all ranks shall stop
    assert Ranks(0, 2, is_local=True, group=Connection(is_complete=False)).explain(stop) is stop
    own = UsageError("no plan")
    assert lost.explain(own) is own


def test_torchrun_is_told_why_a_rank_failed(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    report_to_torchrun("no plan")
    assert json.loads((tmp_path / "error.json").read_text())["message"]["message"] == "no plan"
