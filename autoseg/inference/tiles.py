"""Places windows over a slice, which may be larger or smaller than the window.

Owns: `Tiles`: padding, and the positions of the windows.
Does not own: the weights of overlapping windows (`sliding_window.py`).

Legend: B slices, R x W a slice, r x w the window.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor

from autoseg.config.plans import Plans

Corner = tuple[int, int]


@dataclass(frozen=True)
class Tiles:
    """The windows of one slice; all sizes are (rows, columns).

    Attributes:
        shape: The slice, (R, W).
        window: The window, (r, w).
        padded: The size after padding, at least that of the window.
        before: The padding at the start; the rest is at the end.
        corners: The first row and column of each window in the padded slice.
    """

    shape: tuple[int, int]
    window: tuple[int, int]
    padded: tuple[int, int]
    before: tuple[int, int]
    corners: tuple[Corner, ...]

    def pad(self, batch: Tensor) -> Tensor:
        """Pad (B, N * C, R, W) with zeros to the padded size, with the slice in the center."""
        padded: Tensor = pad_nd_image(batch, self.padded)
        return padded


def tile(shape: Sequence[int], *, plans: Plans) -> Tiles:
    """Place the plan's windows over (R, W) slices, with the plan's overlap."""
    rows, columns = shape
    window = plans.network.window_of((rows, columns))
    padded = (max(rows, window[0]), max(columns, window[1]))
    overlap = plans.inference.window_overlap
    corners = itertools.product(*(window_starts(n, w, overlap) for n, w in zip(padded, window, strict=True)))
    before = ((padded[0] - rows) // 2, (padded[1] - columns) // 2)
    return Tiles((rows, columns), window, padded, before, tuple((row, column) for row, column in corners))


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Place windows evenly along an axis, from its start to its end, with at least this overlap."""
    if size <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = -(-(size - window) // step) + 1
    return [round(i * (size - window) / (count - 1)) for i in range(count)]
