"""One scan to what the network sees, and the network's maps back to the scan's own grid.

Owns: the order of the steps (canonical axes, crop, normalise, slice axis first, resample; labels to organ indices) and
their inverse beside them, and `CaseTransform`, what the inverse has to know.
Does not own: how voxels are interpolated (`resampling.py`) or scaled (`normalisation.py`), nor files.

Symbols: C channels, K organs, S slices, R rows, W columns of the preprocessed grid.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from autoseg.errors import DatasetError, GeometryError
from autoseg.geometry import AxisMap, Box, ImageGeometry, box_slices, canonical_axis_map, nonzero_box, reorient
from autoseg.image_io import Scan
from autoseg.plans import Axis, DataPlan
from autoseg.preprocessing.normalisation import fill_holes, normalise
from autoseg.preprocessing.resampling import (
    Taps,
    apply_taps,
    linear_taps,
    resample_image,
    resample_labels,
    resampled_shape,
    spline_orders,
)

AXIS_NUMBER: dict[str, int] = {"z": 0, "y": 1, "x": 2}
Triple = tuple[int, int, int]
Place = tuple[float, float, float]  # slice, row, column
Value = TypeVar("Value")


@dataclass(frozen=True)
class CaseTransform:
    """What preprocessing did to the grid of one scan.

    Attributes:
        original: The file grid.
        crop_box: Start and stop along each canonical axis (z, y, x).
        slice_axis: Canonical axis that became the first one.
        resampled_shape: (slices, rows, columns) of the preprocessed grid.
    """

    original: ImageGeometry
    crop_box: Box
    slice_axis: Axis
    resampled_shape: Triple

    @cached_property
    def axis_map(self) -> AxisMap:
        """The way from the file grid to the canonical grid."""
        return canonical_axis_map(self.original)

    @property
    def cropped_shape(self) -> Triple:
        """(slices, rows, columns) before resampling, voxels of the file."""
        return _slice_first([stop - start for start, stop in self.crop_box], self.slice_axis)

    def view(self, array_zyx: np.ndarray) -> np.ndarray:
        """Return the cropped part of an array on the file grid, canonical and slice axis first, sharing its memory."""
        cropped = self.axis_map.apply(array_zyx)[box_slices(self.crop_box)]
        return np.moveaxis(cropped, AXIS_NUMBER[self.slice_axis], 0)

    def place(self, voxel_zyx: Triple) -> tuple[Place, Place]:
        """Return the box that a voxel of the file fills on the preprocessed grid, which may lie outside it.

        Returns:
            The corners, (slice, row, column), the smaller numbers first; the middle of the first voxel there is 0.
        """
        low, high = [], []
        for axis, flip, (start, _stop) in zip(
            self.axis_map.permutation, self.axis_map.flips, self.crop_box, strict=True
        ):
            size = self.original.shape_zyx[axis]
            index = size - 1 - voxel_zyx[axis] if flip else voxel_zyx[axis]
            low.append(float(index - start))
            high.append(float(index - start + 1))
        scales = [new / old for new, old in zip(self.resampled_shape, self.cropped_shape, strict=True)]
        first, last = (
            tuple(edge * scale - 0.5 for edge, scale in zip(_slice_first(edges, self.slice_axis), scales, strict=True))
            for edges in (low, high)
        )
        return (first[0], first[1], first[2]), (last[0], last[1], last[2])

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` gives the same object back, to the bit."""
        return {
            "original": self.original.to_json(),
            "crop_box": [list(part) for part in self.crop_box],
            "slice_axis": self.slice_axis,
            "resampled_shape": list(self.resampled_shape),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "CaseTransform":
        """Read what `to_json` gave."""
        (z0, z1), (y0, y1), (x0, x1) = content["crop_box"]
        slices, rows, columns = content["resampled_shape"]
        return cls(
            original=ImageGeometry.from_json(content["original"]),
            crop_box=((z0, z1), (y0, y1), (x0, x1)),
            slice_axis=content["slice_axis"],
            resampled_shape=(slices, rows, columns),
        )


@dataclass(frozen=True)
class PreprocessedCase:
    """One case as the network sees it.

    Attributes:
        image: (C, S, R, W) float32, near zero mean.
        labels: (S, R, W) organ indices, uint8 (ignored: 255) up to 254 organs, else uint16 (65535); None if unknown.
        transform: The way back to the file grid.
    """

    image: np.ndarray
    labels: np.ndarray | None
    transform: CaseTransform


def preprocess_case(channels: Sequence[Scan], *, plan: DataPlan, labels: Scan | None = None) -> PreprocessedCase:
    """Bring the channels of one scan, and its label map if there is one, to the plan's grid.

    Raises:
        DatasetError: The number of channels is not the plan's, the grids differ in shape, or a label value is unknown.
        PlanError: The target spacing would make the grid impossibly large.
    """
    _check_shapes(channels, plan=plan, labels=labels)
    original = channels[0].geometry
    needs_mask = any(channel.only_inside_mask for channel in plan.channels)
    mask = _nonzero(channels) if plan.crop_to_nonzero or needs_mask else None
    transform = _make_transform(original, mask=mask if plan.crop_to_nonzero else None, plan=plan)
    inside = fill_holes(transform.view(mask)) if mask is not None and needs_mask else None

    spacing = _slice_first(reorient(original, transform.axis_map).spacing_zyx_mm, plan.slice_axis)
    orders = spline_orders(spacing, _slice_first(plan.target_spacing_zyx_mm, plan.slice_axis))
    shape = transform.resampled_shape
    image = np.empty((len(channels), *shape), np.float32)  # (C, S, R, W)
    for index, (scan, channel) in enumerate(zip(channels, plan.channels, strict=True)):
        values = normalise(transform.view(scan.array_zyx), plan=channel, mask=inside)
        image[index] = resample_image(values, shape, orders=orders)
    if labels is None:
        return PreprocessedCase(image, None, transform)
    indices = to_organ_indices(transform.view(labels.array_zyx), plan=plan)
    return PreprocessedCase(image, np.ascontiguousarray(resample_labels(indices, shape)), transform)


def undo_preprocessing(
    slices: Iterable[np.ndarray], *, transform: CaseTransform, organ_values: Sequence[int]
) -> np.ndarray:
    """Bring the network's maps to the grid of the file, as a label map with the dataset's values.

    The maps are interpolated linearly and the largest wins, one slice of the file at a time: three preprocessed slices
    of all organs are the most that is held, never (organs x full grid).

    Args:
        slices: One (1 + K, R, W) map per preprocessed slice, in order, background first; logits or probs, any float.
        transform: What `preprocess_case` did.
        organ_values: The K values of the organs in the dataset.

    Returns:
        uint8, or uint16 for values over 255, on the file grid; background outside the crop box. A tie is won by the
        background, then by the organ that stands first.

    Raises:
        GeometryError: The number or the shape of the maps is not that of the preprocessed grid.
    """
    values = np.array([0, *organ_values], np.uint8 if max(organ_values, default=0) <= 255 else np.uint16)
    result = np.zeros(transform.original.shape_zyx, values.dtype)
    target = transform.view(result)  # writing here writes into `result`
    along, rows, columns = map(linear_taps, transform.resampled_shape, transform.cropped_shape)
    before: np.ndarray | None = None
    done = 0
    for number, now in enumerate(_checked(slices, transform=transform, num_maps=len(values))):
        while done < len(target) and along.indices[1, done] == number:
            first = now if before is None or along.indices[0, done] == number else before
            mixed = _mix(first, now, share=along.weights[1, done])  # (1 + K, R, W)
            target[done] = values[_winners(mixed, rows=rows, columns=columns)]
            done += 1
        before = now
    return result


def to_organ_indices(labels: np.ndarray, *, plan: DataPlan) -> np.ndarray:
    """Turn the dataset's values into organ indices: 0, 1..K in the order of `plan.organs`, or the ignored index.

    Raises:
        DatasetError: A value is neither 0, nor an organ's, nor the ignored one.
    """
    organs = plan.organs
    known = [0, *(organ.value for organ in organs)]
    dtype = index_dtype(len(organs))
    indices = np.arange(len(known), dtype=dtype)
    if plan.ignore_value is not None:
        known.append(plan.ignore_value)
        indices = np.append(indices, np.iinfo(dtype).max)
    table = np.zeros(max(known) + 2, dtype)  # the last entry stands for every larger value
    is_known = np.zeros(table.size, bool)
    table[known], is_known[known] = indices, True
    if labels.size and labels.min() < 0:
        raise _unknown_values(labels[labels < 0], known=known)
    positions = labels if np.iinfo(labels.dtype).max < table.size else np.minimum(labels, table.size - 1)
    found = is_known[positions]
    if not found.all():
        raise _unknown_values(labels[~found], known=known)
    return table[positions]


def index_dtype(num_organs: int) -> type[np.uint8] | type[np.uint16]:
    """Return the type of organ indices; its largest value is the ignored index."""
    return np.uint8 if num_organs <= 254 else np.uint16


def _make_transform(original: ImageGeometry, *, mask: np.ndarray | None, plan: DataPlan) -> CaseTransform:
    axis_map = canonical_axis_map(original)
    canonical = reorient(original, axis_map)
    z, y, x = canonical.shape_zyx
    box = ((0, z), (0, y), (0, x)) if mask is None else nonzero_box(axis_map.apply(mask))
    shape = resampled_shape(
        _slice_first([stop - start for start, stop in box], plan.slice_axis),
        spacing_mm=_slice_first(canonical.spacing_zyx_mm, plan.slice_axis),
        target_mm=_slice_first(plan.target_spacing_zyx_mm, plan.slice_axis),
    )
    return CaseTransform(original, box, plan.slice_axis, shape)


def _checked(slices: Iterable[np.ndarray], *, transform: CaseTransform, num_maps: int) -> Iterator[np.ndarray]:
    """Pass the maps on, and refuse a wrong shape or number of them."""
    num_slices, rows, columns = transform.resampled_shape
    expected, count = (num_maps, rows, columns), 0
    for maps in slices:
        if maps.shape != expected or count == num_slices:
            raise GeometryError(
                f"slice {count} of the prediction has the shape {maps.shape}; expected {num_slices} slices {expected}."
            )
        count += 1
        yield maps
    if count != num_slices:
        raise GeometryError(f"the prediction ended after {count} of {num_slices} slices.")


def _mix(first: np.ndarray, second: np.ndarray, *, share: np.float32) -> np.ndarray:
    """Interpolate between two slices, float32; `share` is the part of the second one."""
    mixed = first.astype(np.float32, copy=False)
    return mixed if share == 0 else mixed * (1 - share) + second.astype(np.float32, copy=False) * share


def _winners(maps: np.ndarray, *, rows: Taps, columns: Taps) -> np.ndarray:
    """Interpolate the maps (1 + K, R, W) in-plane, one at a time, and return which is the largest at each pixel.

    An organ that is nowhere above the background stays so under interpolation and is passed over: most of many.
    """
    above = np.flatnonzero((maps[1:] > maps[0]).any(axis=(1, 2))) + 1
    largest = _in_plane(maps[0], rows=rows, columns=columns).copy()
    winners = np.zeros(largest.shape, np.intp)
    for index in above:
        one = _in_plane(maps[index], rows=rows, columns=columns)
        wins = one > largest
        np.copyto(largest, one, where=wins)
        winners[wins] = index
    return winners


def _in_plane(plane: np.ndarray, *, rows: Taps, columns: Taps) -> np.ndarray:
    for axis, taps in enumerate((rows, columns)):
        if taps.indices.shape[1] != plane.shape[axis]:  # else the same grid
            plane = apply_taps(plane, taps, axis=axis)
    return plane


def _check_shapes(channels: Sequence[Scan], *, plan: DataPlan, labels: Scan | None) -> None:
    if len(channels) != len(plan.channels):
        names = ", ".join(channel.name for channel in plan.channels)
        raise DatasetError(f"{len(channels)} channels given; the plan expects {len(plan.channels)}: {names}.")
    shape = channels[0].array_zyx.shape
    for other in [*channels[1:], *([] if labels is None else [labels])]:
        if other.array_zyx.shape != shape:
            raise DatasetError(
                f"channels and labels of one case differ in shape_zyx: {shape} and {other.array_zyx.shape}. "
                "Resample one of them."
            )


def _nonzero(channels: Sequence[Scan]) -> np.ndarray:
    mask = channels[0].array_zyx != 0
    for scan in channels[1:]:
        mask |= scan.array_zyx != 0
    return mask


def _slice_first(values_zyx: Sequence[Value], slice_axis: Axis) -> tuple[Value, Value, Value]:
    """Order three values of the canonical axes as (slice, row, column)."""
    z, y, x = values_zyx
    return {"z": (z, y, x), "y": (y, z, x), "x": (x, z, y)}[slice_axis]


def _unknown_values(unknown: np.ndarray, *, known: Sequence[int]) -> DatasetError:
    values, counts = np.unique(unknown, return_counts=True)
    listed = ", ".join(f"{value} ({count} voxels)" for value, count in zip(values[:8], counts[:8], strict=True))
    return DatasetError(f"the label map holds {listed}; known are {sorted(known)[:20]}. Name them in dataset.json.")
