import pytest

from autoseg.errors import UsageError
from autoseg.training.step_share import add_in_pairs, cut_slices, share_of, slices_of_new_run


@pytest.mark.parametrize(
    ("stop", "parts", "clip", "bounds"),
    [
        (8, 2, 1, [0, 4, 8]),
        (7, 2, 1, [0, 3, 7]),
        (13, 3, 1, [0, 4, 8, 13]),
        (10, 4, 1, [0, 2, 5, 7, 10]),
        (3, 8, 1, [0, 1, 2, 3]),
        (5, 1, 1, [0, 5]),
        (12, 2, 4, [0, 4, 12]),
        (8, 2, 8, [0, 8]),
        (12, 3, 2, [0, 4, 8, 12]),
    ],
)
def test_cut_slices_is_even_and_keeps_clips_whole(stop, parts, clip, bounds):
    cut = cut_slices(slice(0, stop), parts, memory_clip_slices=clip)
    assert [cut[0].start, *(part.stop for part in cut)] == bounds
    assert [part.start for part in cut[1:]] == bounds[1:-1]


@pytest.mark.parametrize("stop", [8, 10, 13, 16])
def test_parts_of_halves_are_those_of_the_whole(stop):
    """So two ranks of two cores cut as one rank of four cores does."""
    halves = cut_slices(slice(0, stop), 2)
    assert [part for half in halves for part in cut_slices(half, 2)] == cut_slices(slice(0, stop), 4)


def test_add_in_pairs_adds_halves_first():
    words = ["a", "b", "c", "d", "e"]
    assert add_in_pairs(words, lambda one, other: f"({one}{other})") == "((ab)(c(de)))"
    assert add_in_pairs(["a"], lambda *_: "never") == "a"


def test_shares_of_a_new_run_are_a_batch_each(tiny_plans):
    plans = tiny_plans(training={"batch_slices": 6})
    assert slices_of_new_run(plans, num_ranks=3) == 18
    shares = [share_of(plans, slices_per_step=18, rank=rank, num_ranks=3) for rank in range(3)]
    assert [(share.part, share.at_once) for share in shares] == [
        (slice(0, 6), None),
        (slice(6, 12), None),
        (slice(12, 18), None),
    ]


def test_shares_of_a_run_that_goes_on_with_other_ranks_keep_the_step_and_the_memory(tiny_plans):
    plans = tiny_plans(training={"batch_slices": 6})
    alone = share_of(plans, slices_per_step=12, rank=0, num_ranks=1)
    assert (alone.part, alone.num_slices, alone.at_once) == (slice(0, 12), 12, 6)
    uneven = [share_of(plans, slices_per_step=16, rank=rank, num_ranks=3) for rank in range(3)]
    assert [share.num_slices for share in uneven] == [5, 5, 6]
    assert [share.at_once for share in uneven] == [None] * 3


def test_accumulated_batches_are_taken_one_after_the_other(tiny_plans):
    plans = tiny_plans(training={"batch_slices": 6, "gradient_accumulation": 4})
    assert slices_of_new_run(plans, num_ranks=2) == 48
    share = share_of(plans, slices_per_step=48, rank=1, num_ranks=2)
    assert (share.part, share.at_once) == (slice(24, 48), 6)


def test_more_ranks_than_slices_or_clips_are_refused(tiny_plans):
    with pytest.raises(UsageError, match=r"has 2 slices, too few for 3 ranks\. Start at most 2"):
        share_of(tiny_plans(training={"batch_slices": 2}), slices_per_step=2, rank=0, num_ranks=3)
    plans = tiny_plans(network={"memory_slices": 2}, training={"batch_slices": 9, "memory_clip_slices": 4})
    assert plans.slices_per_step == 8
    with pytest.raises(UsageError, match="has 2 clips of 4 slices, too few for 3 ranks"):
        share_of(plans, slices_per_step=8, rank=0, num_ranks=3)
