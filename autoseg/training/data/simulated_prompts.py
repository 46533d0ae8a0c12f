"""Draws points and boxes from the reference, as a user might set them.

Does not own: what the network makes of them (`network/point_prompts.py`).

Legend: B slices, K requested organs, P = 5 points per organ (the corners of a box, three points), R x W the window.
"""

import numpy as np

from autoseg.network.point_prompts import BOX_FIRST, BOX_LAST, INSIDE, NOTHING, NUM_POINTS, OUTSIDE

MAX_POINTS = NUM_POINTS - 2
BOX_SHARE = 0.5
OUTSIDE_SHARE = 0.3
BOX_SLACK = 0.1  # of the organ's width and height, by which a corner may be off


def draw_point_prompts(
    labels: np.ndarray, *, num_organs: int, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Point at some of the organs in some slices, and sometimes beside an absent organ.

    Args:
        labels: (B, R, W) 0, position among the requested organs plus 1, or negative where unknown.
        num_organs: K.
        share: The fraction of the organs in a slice that get a prompt; of the absent ones it is OUTSIDE_SHARE times
            that.
        rng: The source of all randomness.

    Returns:
        (B, K, P, 2) float32 places and (B, K, P) int64 kinds, as in `PointPrompts`.
    """
    places = np.zeros((len(labels), num_organs, NUM_POINTS, 2), np.float32)
    kinds = np.full(places.shape[:-1], NOTHING, np.int64)
    for number, slice_labels in enumerate(labels):
        for organ in range(num_organs):
            mask = slice_labels == organ + 1
            if mask.any() and rng.random() < share:
                _point_at(mask, places[number, organ], kinds[number, organ], rng=rng)
            elif not mask.any() and rng.random() < share * OUTSIDE_SHARE:
                row, column = (int(rng.integers(size)) for size in mask.shape)
                if slice_labels[row, column] >= 0:  # where unknown, the organ may be
                    places[number, organ, 2], kinds[number, organ, 2] = (row, column), OUTSIDE
    return places, kinds


def _point_at(mask: np.ndarray, places: np.ndarray, kinds: np.ndarray, *, rng: np.random.Generator) -> None:
    """Fill the P points of one organ in one slice: a box, points, or both."""
    pixels = np.argwhere(mask)  # (N, 2)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    has_box = rng.random() < BOX_SHARE
    if has_box:
        slack = BOX_SLACK * (high - low + 1)
        places[0], places[1] = low + rng.uniform(-slack, slack), high + rng.uniform(-slack, slack)
        kinds[:2] = BOX_FIRST, BOX_LAST
    num_points = int(rng.integers(0 if has_box else 1, MAX_POINTS + 1))
    start = np.maximum(0, low - (high - low + 1) // 2)  # up to half the organ's size away from its box
    stop = high + (high - low + 1) // 2 + 1
    around = np.argwhere(~mask[start[0] : stop[0], start[1] : stop[1]]) + start
    for place in range(2, 2 + num_points):
        is_outside = place > 2 and len(around) > 0 and rng.random() < OUTSIDE_SHARE
        candidates = around if is_outside else pixels
        places[place] = candidates[rng.integers(len(candidates))]
        kinds[place] = OUTSIDE if is_outside else INSIDE
