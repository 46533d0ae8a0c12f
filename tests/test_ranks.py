import pytest

from autoseg.errors import UsageError
from autoseg.ranks import Ranks, join_ranks, leads, local_rank


def test_alone_is_the_first_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with join_ranks() as ranks:
        assert ranks == Ranks(0, 1) and ranks.leads and leads() and local_rank() == 0
        ranks.wait()
        assert ranks.share("abc") == ["a", "b", "c"]


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
