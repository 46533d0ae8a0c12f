"""Resamples images and labels to another grid, one axis after the other.

Owns: `Taps` (the input samples and weights of each output sample), and resampling of images and labels.
Does not own: the target grid (`pipeline.py`).

All grids are aligned at their borders (half-pixel centers): output sample `o` of `n_out` is at the input position
`(o + 0.5) * n_in / n_out - 0.5`, clamped to the first and last sample.

Images use cubic B-splines, but linear interpolation along a coarse axis, where a spline would ring between distant
slices (nnU-Net separates such an axis as well). Labels are resampled as the argmax of one linearly resampled map per
label; nearest neighbor would leave stairs.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autoseg.errors import PlanError

Shape = tuple[int, int, int]
ANISOTROPY_LIMIT = 3.0  # a spacing over 3x the finest one makes an axis coarse, as in nnU-Net
SPLINE_MARGIN = 16  # samples; a coefficient hears of one so far away by 0.268 ** 16, or 7e-10
BLOCK_VALUES = 1 << 20  # values resampled at once: 4 MiB, so that the passes over them stay in the cache
MAX_VOXELS = 1 << 33  # 32 GiB as float32: a target spacing that asks for more is a mistake


@dataclass(frozen=True)
class Taps:
    """The input samples and weights of each output sample along one axis.

    Attributes:
        indices: (taps, n_out) int64, positions on the input axis.
        weights: (taps, n_out) float32, each column sums to one.
        is_spline: Whether the weights are for B-spline coefficients instead of samples.
    """

    indices: np.ndarray
    weights: np.ndarray
    is_spline: bool = False


def resampled_shape(shape: Shape, *, spacing_mm: Sequence[float], target_mm: Sequence[float]) -> Shape:
    """Return the number of samples of each axis at the target spacing, at least one; axes in any order."""
    z, y, x = (max(1, round(n * old / new)) for n, old, new in zip(shape, spacing_mm, target_mm, strict=True))
    return (z, y, x)


def spline_orders(*spacings_mm: Sequence[float]) -> tuple[int, ...]:
    """Choose 1 (linear) for each axis that is coarse on any of the grids, else 3 (cubic)."""
    coarse = [[step > ANISOTROPY_LIMIT * min(spacing) for step in spacing] for spacing in spacings_mm]
    return tuple(1 if any(axis) else 3 for axis in zip(*coarse, strict=True))


def linear_taps(n_in: int, n_out: int) -> Taps:
    """Return the two samples around each output position; at the end of the axis, the second stays inside."""
    position = _positions(n_in, n_out)
    first = np.floor(position).astype(np.int64)
    share = (position - first).astype(np.float32)
    return Taps(np.stack([first, np.minimum(first + 1, n_in - 1)]), np.stack([1 - share, share]))


def cubic_taps(n_in: int, n_out: int) -> Taps:
    """Return the four cubic B-spline coefficients around each output position, mirrored at the ends of the axis."""
    position = _positions(n_in, n_out)
    first = np.floor(position).astype(np.int64)
    t = position - first
    indices = np.abs(np.stack([first - 1, first, first + 1, first + 2]))
    period = max(2 * (n_in - 1), 1)
    indices = np.minimum(indices % period, period - indices % period) if n_in > 1 else indices * 0
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (1 - t) ** 3 - 6 * (1 - t) ** 2 + 4, t**3]) / 6
    return Taps(indices, weights.astype(np.float32), is_spline=True)


def apply_taps(array: np.ndarray, taps: Taps, *, axis: int) -> np.ndarray:
    """Resample one axis of an array of any number of axes; the result is a new float32 array."""
    axis %= array.ndim
    shape = list(array.shape)
    shape[axis] = taps.indices.shape[1]
    result = np.empty(shape, np.float32)
    along = 1 if axis == 0 and array.ndim > 1 else 0  # the axis that is cut into blocks, never the resampled one
    if array.ndim == 1:
        return _apply_to_block(array, taps, axis=0)
    step = max(1, BLOCK_VALUES * array.shape[along] // max(1, array.size, result.size))
    for start in range(0, array.shape[along], step):
        block = (slice(None),) * along + (slice(start, start + step),)
        result[block] = _apply_to_block(array[block], taps, axis=axis)
    return result


def axis_taps(n_in: int, n_out: int, *, order: int) -> Taps | None:
    """Return the taps that resample an axis from one size to another, or None if the size does not change.

    Args:
        n_in: The number of input samples.
        n_out: The number of output samples.
        order: 1 (linear) or 3 (cubic spline).
    """
    if n_in == n_out:
        return None
    return cubic_taps(n_in, n_out) if order == 3 else linear_taps(n_in, n_out)


def taps_between(taps: Taps, start: int, stop: int, *, n_in: int) -> tuple[Taps, int, int]:
    """Return the taps of the outputs from `start` to `stop`, exclusive.

    Returns:
        The taps on the input samples from first to last, and these two numbers, the second one exclusive. A spline gets
        enough samples around them that its coefficients are those of the whole axis, to the last digits of float32.
    """
    indices = taps.indices[:, start:stop]
    margin = SPLINE_MARGIN if taps.is_spline else 0
    first, last = max(0, int(indices.min()) - margin), min(n_in, int(indices.max()) + 1 + margin)
    return Taps(indices - first, taps.weights[:, start:stop], taps.is_spline), first, last


def resample_image(image: np.ndarray, taps: Sequence[Taps | None]) -> np.ndarray:
    """Resample a 3D image, or some of its slices.

    Args:
        image: Any real type; axes in any order.
        taps: The taps of each axis; None for an axis that does not change.

    Returns:
        float32; the image itself where nothing changes and the type is float32 already.
    """
    sizes = [size if axis is None else axis.indices.shape[1] for size, axis in zip(image.shape, taps, strict=True)]
    refuse_huge(sizes)
    for number in sorted(range(image.ndim), key=lambda n: sizes[n] / image.shape[n]):  # shrinking axes first
        axis = taps[number]
        if axis is not None:
            image = apply_taps(image, axis, axis=number)
    return image.astype(np.float32, copy=False)


def resample_labels(labels: np.ndarray, shape: Shape) -> np.ndarray:
    """Resample a 3D map of integers: each voxel gets the label whose linearly resampled map is the largest.

    Only the labels of the eight voxels around a position contribute, so no maps are computed: inside a label all eight
    agree, and elsewhere their weights are summed. The smaller value wins a tie.

    Returns:
        The type of `labels`; `labels` itself where the shape is unchanged.
    """
    if labels.shape == shape:
        return labels
    refuse_huge(shape)
    z_taps, y_taps, x_taps = map(linear_taps, labels.shape, shape)
    corners = list(itertools.product((0, 1), repeat=2))
    in_plane = np.stack([np.outer(y_taps.weights[j], x_taps.weights[i]) for j, i in corners]).reshape(4, -1)
    result = np.empty(shape, labels.dtype)
    for number in range(shape[0]):
        planes = [labels[index] for index in z_taps.indices[:, number]]
        around = np.stack(  # (8, pixels)
            [plane[y_taps.indices[j]][:, x_taps.indices[i]].ravel() for plane in planes for j, i in corners]
        )
        argmax = around[0].copy()
        mixed = np.flatnonzero((around[1:] != around[0]).any(axis=0))
        weights = np.concatenate([share * in_plane[:, mixed] for share in z_taps.weights[:, number]])  # (8, mixed)
        argmax[mixed] = _heaviest(around[:, mixed], weights)
        result[number] = argmax.reshape(shape[1:])
    return result


def _heaviest(candidates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the value with the largest sum of weights per column of (8, n) arrays; the smaller value wins a tie."""
    argmax = candidates[0].copy()
    largest = np.full(argmax.shape, -1, np.float32)
    for candidate in candidates:
        total = (weights * (candidates == candidate)).sum(axis=0)
        wins = (total > largest) | ((total == largest) & (candidate < argmax))
        np.copyto(largest, total, where=wins)
        np.copyto(argmax, candidate, where=wins)
    return argmax


def _apply_to_block(block: np.ndarray, taps: Taps, *, axis: int) -> np.ndarray:
    if taps.is_spline:
        block = ndimage.spline_filter1d(block, order=3, axis=axis, output=np.float32, mode="mirror")
    block = block.astype(np.float32, copy=False)
    column = [1] * block.ndim
    column[axis] = -1
    result = np.take(block, taps.indices[0], axis=axis) * taps.weights[0].reshape(column)
    for indices, weights in zip(taps.indices[1:], taps.weights[1:], strict=True):
        part = np.take(block, indices, axis=axis)
        part *= weights.reshape(column)
        result += part
    return result


def _positions(n_in: int, n_out: int) -> np.ndarray:
    return np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0, n_in - 1)


def refuse_huge(shape: Sequence[int]) -> None:
    """Refuse a grid that is larger than that of any scan.

    Raises:
        PlanError: The grid is too large.
    """
    voxels = math.prod(shape)
    if voxels > MAX_VOXELS:
        raise PlanError(
            f"at the plan's target_spacing_zyx_mm this scan has {shape[0]} x {shape[1]} x {shape[2]} voxels, over "
            f"{MAX_VOXELS}. Plan a coarser spacing, or check the spacing of the scan."
        )
