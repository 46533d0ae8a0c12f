"""Cuts the window of a slice: where it lies, and what is read of the case for it.

Does not own: which slices they are (`sampler.py`), how large the window is (`groups.py`).
"""

import numpy as np

from autoseg.preprocessing.array_file import StoredArray

SHARE_ANYWHERE = 0.33  # fraction of windows that are placed regardless of the organs


def cut_slices(image: StoredArray | np.ndarray, numbers: np.ndarray, *, rows: slice, columns: slice) -> np.ndarray:
    """Cut N slices, in any order, out of a (C, S, R, W) image: (N, C, rows, columns) float32."""
    first, last = int(numbers.min()), int(numbers.max())
    block = np.asarray(image[:, first : last + 1, rows, columns], dtype=np.float32)  # one read of the store
    return block[:, numbers - first].swapaxes(0, 1)


def pad_to(array: np.ndarray, shape: tuple[int, int], *, value: float) -> np.ndarray:
    """Pad the last two axes at both ends, evenly, up to `shape`."""
    missing = [max(0, want - have) for have, want in zip(array.shape[-2:], shape, strict=True)]
    widths = [(0, 0)] * (array.ndim - 2) + [(m // 2, m - m // 2) for m in missing]
    return np.pad(array, widths, constant_values=value) if any(missing) else array


def pick_target(middle: np.ndarray, axis: int, rng: np.random.Generator) -> int | None:
    """Pick a row or column of some organ's voxel for the window to contain; None where the slice has no organ."""
    is_organ = (middle > 0) & (middle != np.iinfo(middle.dtype).max)  # the largest value is ignored
    profile = np.flatnonzero(is_organ.any(axis=1 - axis))
    return int(profile[rng.integers(len(profile))]) if len(profile) else None


def draw_range(size: int, window: int, target: int | None, rng: np.random.Generator) -> slice:
    """Draw where a window lies along one axis; mostly so that the target, where there is one, is well inside."""
    if size <= window:
        return slice(0, size)
    if target is None or rng.random() < SHARE_ANYWHERE:
        start = int(rng.integers(size - window + 1))
    else:
        start = int(np.clip(target - rng.integers(window // 4, 3 * window // 4 + 1), 0, size - window))
    return slice(start, start + window)
