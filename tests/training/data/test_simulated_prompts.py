import numpy as np
import pytest

from autoseg.network.point_prompts import BOX_FIRST, BOX_LAST, INSIDE, NOTHING, NUM_POINTS, OUTSIDE
from autoseg.training.data.simulated_prompts import OUTSIDE_SHARE, draw_point_prompts


@pytest.fixture
def labels():
    """An L of organ 2 in slice 0; slice 1 holds organ 1 in one pixel, and unknown ones."""
    labels = np.zeros((2, 20, 30), np.int64)
    labels[0, 4:12, 10] = labels[0, 11, 10:20] = 2
    labels[1, 3, 3] = 1
    labels[1, 10:] = -1
    return labels


def draw_often(labels, *, share=1.0, times=200):
    rng = np.random.default_rng(0)
    return [draw_point_prompts(labels, num_organs=3, share=share, rng=rng) for _ in range(times)]


def test_points_lie_where_their_kind_says_and_boxes_around_the_organ(labels):
    seen = set()
    for places, kinds in draw_often(labels):
        assert places.shape == (2, 3, NUM_POINTS, 2) and kinds.shape == (2, 3, NUM_POINTS)
        for place, kind in zip(places[0, 1], kinds[0, 1], strict=True):
            seen.add(int(kind))
            if kind in (INSIDE, OUTSIDE):
                row, column = place.astype(int)
                assert (labels[0, row, column] == 2) == (kind == INSIDE)
                assert 0 <= row <= 15 and 5 <= column <= 24  # half of 8 rows and 10 columns around the organ
            elif kind != NOTHING:
                exact = {BOX_FIRST: (4, 10), BOX_LAST: (11, 19)}[kind]
                assert (np.abs(place - exact) <= (0.8, 1.0)).all()  # a tenth of 8 rows and 10 columns
    assert seen == {NOTHING, OUTSIDE, INSIDE, BOX_FIRST, BOX_LAST}


def test_present_organs_are_pointed_at_as_often_as_asked_and_beside_absent_ones_less_often(labels):
    drawn = draw_often(labels, share=0.25, times=1000)
    encoded_prompts = np.mean([(kinds != NOTHING).any(axis=2) for _, kinds in drawn], axis=0)  # (B, K)
    inside = np.mean([np.isin(kinds, (INSIDE, BOX_FIRST)).any(axis=2) for _, kinds in drawn], axis=0)
    assert inside[0, 0] == inside[0, 2] == inside[1, 1] == inside[1, 2] == 0
    assert encoded_prompts[0, 0] == pytest.approx(0.25 * OUTSIDE_SHARE, abs=0.03)
    assert encoded_prompts[1, 1] == pytest.approx(0.25 * OUTSIDE_SHARE / 2, abs=0.03)  # half of slice 1 is unknown
    for places, kinds in drawn:
        assert (places[1, 1][kinds[1, 1] == OUTSIDE][:, 0] < 10).all()
    assert encoded_prompts[0, 1] == pytest.approx(0.25, abs=0.05) and encoded_prompts[1, 0] == pytest.approx(
        0.25, abs=0.05
    )
    assert not any((kinds != NOTHING).any() for _, kinds in draw_often(labels, share=0.0, times=5))
