"""Describes the transform from the grid of a file to the preprocessed grid and back.

Owns: `CaseTransform`, and how it is found for a scan.
Does not own: voxels.

Symbols: S slices, R rows, W columns of the preprocessed grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from autoseg.config.plans import Axis, DataPlan
from autoseg.io.geometry import AxisMap, Box, ImageGeometry, box_slices, canonical_axis_map, reorient
from autoseg.preprocessing.resampling import refuse_huge, resampled_shape

AXIS_NUMBER: dict[str, int] = {"z": 0, "y": 1, "x": 2}
Triple = tuple[int, int, int]
Place = tuple[float, float, float]  # slice, row, column
Value = TypeVar("Value")


@dataclass(frozen=True)
class CaseTransform:
    """The transform of one scan's grid.

    Attributes:
        original: The file grid.
        crop_box: The start and stop along each canonical axis (z, y, x).
        slice_axis: The canonical axis that became the first one.
        resampled_shape: (slices, rows, columns) of the preprocessed grid.
    """

    original: ImageGeometry
    crop_box: Box
    slice_axis: Axis
    resampled_shape: Triple

    @cached_property
    def axis_map(self) -> AxisMap:
        """Return the map from the file grid to the canonical grid."""
        return canonical_axis_map(self.original)

    @property
    def cropped_shape(self) -> Triple:
        """Return (slices, rows, columns) before resampling, in voxels of the file."""
        return slice_first([stop - start for start, stop in self.crop_box], self.slice_axis)

    def view(self, array_zyx: np.ndarray) -> np.ndarray:
        """Return a view of the cropped part of an array on the file grid, canonical and with the slice axis first."""
        cropped = self.axis_map.apply(array_zyx)[box_slices(self.crop_box)]
        return np.moveaxis(cropped, AXIS_NUMBER[self.slice_axis], 0)

    def place(self, voxel_zyx: Triple) -> tuple[Place, Place]:
        """Return the box that a voxel of the file covers on the preprocessed grid, which may be outside of it.

        Returns:
            The corners, (slice, row, column), the smaller numbers first; 0 is the center of the first voxel.
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
            tuple(edge * scale - 0.5 for edge, scale in zip(slice_first(edges, self.slice_axis), scales, strict=True))
            for edges in (low, high)
        )
        return (first[0], first[1], first[2]), (last[0], last[1], last[2])

    def to_json(self) -> dict[str, Any]:
        """Return plain values, from which `from_json` returns an identical object."""
        return {
            "original": self.original.to_json(),
            "crop_box": [list(part) for part in self.crop_box],
            "slice_axis": self.slice_axis,
            "resampled_shape": list(self.resampled_shape),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "CaseTransform":
        """Return the transform that `to_json` converted."""
        (z0, z1), (y0, y1), (x0, x1) = content["crop_box"]
        slices, rows, columns = content["resampled_shape"]
        return cls(
            original=ImageGeometry.from_json(content["original"]),
            crop_box=((z0, z1), (y0, y1), (x0, x1)),
            slice_axis=content["slice_axis"],
            resampled_shape=(slices, rows, columns),
        )


def make_transform(original: ImageGeometry, *, filled: Box | None, plan: DataPlan) -> CaseTransform:
    """Find the grid of one scan.

    Args:
        original: The grid of the file.
        filled: The start and stop to keep along each axis of the file (z, y, x); None keeps everything.
        plan: The data part of the plan, with target spacing and slice axis.

    Raises:
        PlanError: The target spacing would make the grid impossibly large.
    """
    axis_map = canonical_axis_map(original)
    canonical = reorient(original, axis_map)
    z, y, x = canonical.shape_zyx
    box = ((0, z), (0, y), (0, x)) if filled is None else canonical_box(filled, original, axis_map)
    shape = resampled_shape(
        slice_first([stop - start for start, stop in box], plan.slice_axis),
        spacing_mm=slice_first(canonical.spacing_zyx_mm, plan.slice_axis),
        target_mm=slice_first(plan.target_spacing_zyx_mm, plan.slice_axis),
    )
    refuse_huge(shape)
    return CaseTransform(original, box, plan.slice_axis, shape)


def filled_box(arrays_zyx: Sequence[np.ndarray]) -> Box:
    """Return the smallest (start, stop) per axis that contains every voxel that is not 0 in any array.

    It works plane by plane, without an array of the scan's size.
    """
    shape = arrays_zyx[0].shape
    planes, rows, columns = (np.zeros(size, bool) for size in shape)
    for z in range(shape[0]):
        filled = arrays_zyx[0][z] != 0
        for array in arrays_zyx[1:]:
            filled |= array[z] != 0
        columns |= filled.any(axis=0)
        in_row = filled.any(axis=1)
        rows |= in_row
        planes[z] = in_row.any()
    z_span, y_span, x_span = (_span(profile) for profile in (planes, rows, columns))
    return z_span, y_span, x_span


def canonical_box(box: Box, geometry: ImageGeometry, axis_map: AxisMap) -> Box:
    """Convert a box along the axes of the file to one along the canonical axes."""
    spans = []
    for axis, flip in zip(axis_map.permutation, axis_map.flips, strict=True):
        size, (start, stop) = geometry.shape_zyx[axis], box[axis]
        spans.append((size - stop, size - start) if flip else (start, stop))
    return spans[0], spans[1], spans[2]


def slice_first(values_zyx: Sequence[Value], slice_axis: Axis) -> tuple[Value, Value, Value]:
    """Order three values of the canonical axes as (slice, row, column)."""
    z, y, x = values_zyx
    return {"z": (z, y, x), "y": (y, z, x), "x": (x, z, y)}[slice_axis]


def _span(profile: np.ndarray) -> tuple[int, int]:
    """Return the first true position and the one after the last; the whole length where none is true."""
    filled = np.flatnonzero(profile)
    return (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, len(profile))
