import numpy as np
import pytest

from autoseg.inference.tiles import tile, window_starts


@pytest.mark.parametrize(
    ("size", "window", "overlap", "expected"),
    [
        (10, 16, 0.5, [0]),
        (16, 16, 0.5, [0]),
        (17, 16, 0.5, [0, 1]),
        (32, 16, 0.5, [0, 8, 16]),
        (32, 16, 0.0, [0, 16]),
        (33, 16, 0.0, [0, 8, 17]),
        (3, 1, 0.9, [0, 1, 2]),
    ],
)
def test_window_starts_by_hand(size, window, overlap, expected):
    assert window_starts(size, window, overlap) == expected


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_windows_cover_every_pixel_and_overlap_at_least_as_asked(overlap):
    for size in range(1, 120, 7):
        starts = window_starts(size, 16, overlap)
        assert starts[0] == 0 and starts[-1] == max(0, size - 16)
        steps = np.diff(starts)
        assert (steps >= 1).all() and (steps <= max(1, 16 * (1 - overlap)) + 0.5).all()


@pytest.mark.parametrize(
    ("shape", "padded", "before", "num_corners"),
    [((32, 32), (32, 32), (0, 0), 1), ((21, 40), (32, 40), (5, 0), 2), ((1, 1), (32, 32), (15, 15), 1)],
)
def test_tile_pads_at_both_ends_and_places_the_windows(tiny_plans, shape, padded, before, num_corners):
    tiles = tile(shape, plans=tiny_plans(1))
    assert (tiles.shape, tiles.window, tiles.padded, tiles.before) == (shape, (32, 32), padded, before)
    assert len(tiles.corners) == num_corners
    batch = tiles.pad(np.ones((2, 3, *shape), np.float32))
    assert batch.shape == (2, 3, *padded) and batch.sum() == 6 * shape[0] * shape[1]
    assert batch[0, 0, before[0], before[1]] == 1
