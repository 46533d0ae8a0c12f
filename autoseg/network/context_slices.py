"""Which slices the network is shown with a slice; training and prediction ask here.

Legend: N = 2 reach + 1 slices.
"""

import numpy as np


def context_slice_numbers(positions: np.ndarray | int, *, num_slices: int, reach: int) -> np.ndarray:
    """Return the numbers of the slices around each position, its own in the middle; beyond an end the last repeats.

    Args:
        positions: Any shape.
        num_slices: Of the case.
        reach: Neighbors on each side.

    Returns:
        Integers of the shape of `positions`, and N.
    """
    offsets = np.arange(-reach, reach + 1)
    return np.clip(np.asarray(positions)[..., None] + offsets, 0, num_slices - 1)
