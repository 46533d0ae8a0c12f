"""Chooses the neighboring slices that the network sees with a slice, in training and in prediction."""

import numpy as np


def context_slice_numbers(positions: np.ndarray | int, *, num_slices: int, reach: int) -> np.ndarray:
    """Return the numbers of the slices around each position, itself in the middle; beyond an end the last one repeats.

    Args:
        positions: Slice numbers, of any shape.
        num_slices: The number of slices of the case.
        reach: The number of neighbors on each side.

    Returns:
        Integers of the shape of `positions`, and a last axis of 2 * reach + 1.
    """
    offsets = np.arange(-reach, reach + 1)
    return np.clip(np.asarray(positions)[..., None] + offsets, 0, num_slices - 1)
