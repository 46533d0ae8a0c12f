"""What the stored numbers of a scan mean: scaled, freed of NaN, rounded where they are labels, looked at for oddities.

Owns: `scale_values`, `replace_not_finite`, `round_labels`, `describe_odd_values`.
Does not own: files (`image.py`), the voxels as a network sees them (`preprocessing/normalization.py`).

A scan may fill half of the memory, so nothing here makes a second array of its size but what it returns; the work goes
through a block of voxels at a time.
"""

from collections.abc import Iterator

import numpy as np

from autoseg.errors import ScanFileError

MAX_VALUE = 1e18  # what is beyond counts as infinite: its square hardly fits float32, and no scanner measures it
MAX_REPLACED_SHARE = 0.01  # of voxels that are not finite numbers
LABEL_TOLERANCE = 1e-3  # float labels such as 1.00004578 come from resampling tools
HOUNSFIELD_AIR = -1024
BLOCK_VOXELS = 1 << 18  # worked on at a time; in float64 they fit a core's cache


def scale_values(array: np.ndarray, *, slope: float | None, intercept: float) -> np.ndarray:
    """Give stored values in native byte order: scaled as float32, or as stored where there is no slope.

    Args:
        array: (volumes, z, y, x), of any integer or float type.
        slope: Multiply by this; None where the values are meant as they are stored.
        intercept: Then add this.

    Returns:
        The array itself where nothing has to change. Floats are always float32, and what is too large for it infinite.
    """
    native = array.dtype.newbyteorder("=")
    result_type = np.dtype(np.float32) if slope is not None or native.kind == "f" else native
    if slope is None and result_type == array.dtype:
        return array
    exact = np.float64 if array.dtype.itemsize > 2 else np.float32  # what holds every stored value
    result = np.empty(array.shape, result_type)
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is counted by `replace_not_finite`
        for target, stored in _blocks(result, array):
            target[...] = stored if slope is None else stored.astype(exact) * exact(slope) + exact(intercept)
    return result


def replace_not_finite(array: np.ndarray, *, name: str, in_place: bool = False) -> tuple[np.ndarray, tuple[str, ...]]:
    """Replace NaN and -inf by the smallest finite value and +inf by the largest, if they are few; tell how many.

    Args:
        array: (z, y, x).
        name: Of the scan, for the message.
        in_place: Whether the array, which then is contiguous, may be changed; else one with such voxels is copied.

    Raises:
        ScanFileError: They are more than 1 %.
    """
    if array.dtype.kind != "f":
        return array, ()
    with np.errstate(invalid="ignore"):
        if array.min() >= -MAX_VALUE and array.max() <= MAX_VALUE:  # neither is true if any voxel is NaN
            return array, ()
    is_finite = array >= -MAX_VALUE
    is_finite &= array <= MAX_VALUE
    bad = int(array.size - np.count_nonzero(is_finite))
    if bad > MAX_REPLACED_SHARE * array.size:
        raise ScanFileError(
            f"{name}: {bad} of {array.size} voxels are NaN or infinite; at most {MAX_REPLACED_SHARE:.0%} is accepted. "
            f"Set them to the value of the background."
        )
    low, high = array.min(where=is_finite, initial=np.inf), array.max(where=is_finite, initial=-np.inf)
    clean = array if in_place else array.copy()
    for (voxels,) in _blocks(clean):
        np.clip(np.nan_to_num(voxels, copy=False, nan=low), low, high, out=voxels)
    return clean, (f"{bad} NaN or infinite voxels were replaced.",)


def round_labels(array: np.ndarray, *, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Give float labels as int32, and say how many were not quite integers.

    Raises:
        ScanFileError: A value is not finite, further than 0.001 from an integer, or too large.
    """
    result = np.empty(array.shape, np.int32)
    num_off, first_off = 0, 0.0
    num_near, first_near = 0, 0.0
    for target, values in _blocks(result, array):
        if not np.isfinite(values).all():
            raise ScanFileError(f"{name} holds label values that are NaN or infinite. Set them to 0 or to their label.")
        rounded = np.rint(values)
        if np.abs(rounded).max() >= 2**31:
            raise ScanFileError(f"{name} holds a label value of {np.abs(rounded).max():g}; expected 0 to 65535.")
        off = values[np.abs(values - rounded) > LABEL_TOLERANCE]
        if not num_off and off.size:
            first_off = float(off[0])
        num_off += off.size
        near = values[values != rounded]
        if not num_near and near.size:
            first_near = float(near[0])
        num_near += near.size
        target[...] = rounded
    if num_off:
        raise ScanFileError(
            f"{name} holds {first_off:g} (and {num_off} such voxels in all); label values are integers. Resample label "
            "maps with nearest-neighbor interpolation."
        )
    if not num_near:
        return result, ()
    return result, (f"{num_near} label values are no integers, such as {first_near:.9g}, and were rounded.",)


def describe_odd_values(low: float, high: float, *, channel: str, is_ct: bool) -> str | None:
    """Say what is odd about the range of a channel: it is constant, or no Hounsfield units; None where nothing is.

    Args:
        low: Its smallest value.
        high: Its largest.
        channel: Its name.
        is_ct: Whether it is meant to be a CT.
    """
    if low == high:
        return f"channel {channel} is constant ({low:g}): nothing can be seen in it. Check the file."
    if not is_ct or low < 0:
        return None
    seen = f"channel {channel} is named a CT but holds {low:g} to {high:g}"
    if high <= 1:
        text = f"{seen}, scaled to 0..1."
    elif high <= 255:
        text = f"{seen}, windowed to 0..255."
    else:
        text = f"{seen}, without negative values: 1024 may have been added, air is about {HOUNSFIELD_AIR} HU."
    return f"{text} Give Hounsfield units, or name the channel otherwise."


def _blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Go through contiguous arrays of one shape, some voxels of each at a time."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK_VOXELS):
        yield tuple(array[start : start + BLOCK_VOXELS] for array in flat)
