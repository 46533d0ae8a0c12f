"""Converts stored values of a scan: scales them, replaces NaN, rounds labels, and checks the range of intensities.

Owns: `scale_values`, `replace_not_finite`, `round_labels`, `describe_odd_values`.
Does not own: files (`image.py`), normalization for the network (`preprocessing/normalization.py`).

A scan may fill half of the memory, so these functions work on one block of voxels at a time and allocate no second
array of its size except for the result.
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
    """Return stored values in native byte order: scaled as float32, or as stored where there is no slope.

    Args:
        array: (volumes, z, y, x), of any integer or float type.
        slope: The factor; None where values are not scaled.
        intercept: The value that is added afterwards.

    Returns:
        The array itself where nothing has to change. Floats become float32; those too large for it become infinite.
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
    """Replace NaN and -inf by the smallest finite value and +inf by the largest; return how many there were.

    Args:
        array: (z, y, x).
        name: The name of the scan for the message.
        in_place: Whether the array may be changed, which must be contiguous then; otherwise it is copied if needed.

    Raises:
        ScanFileError: More than 1 % of the voxels are not finite.
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
    """Return float labels as int32, and the number of values that were not exactly integers.

    Raises:
        ScanFileError: A value is not finite, differs from an integer by more than 0.001, or is too large.
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
    return result, (f"{num_near} label values are not integers, such as {first_near:.9g}, and were rounded.",)


def describe_odd_values(low: float, high: float, *, channel: str, is_ct: bool) -> str | None:
    """Explain what is wrong with the range of a channel (constant, or not Hounsfield units), or return None.

    Args:
        low: The smallest value.
        high: The largest value.
        channel: The name of the channel.
        is_ct: Whether the channel is declared as CT.
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
    """Yield blocks of contiguous arrays of the same shape."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK_VOXELS):
        yield tuple(array[start : start + BLOCK_VOXELS] for array in flat)
