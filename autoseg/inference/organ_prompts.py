"""Converts a user's points and boxes from voxels of the scan to pixels of a window.

Owns: `OrganPrompts`, which a user gives, and `PlacedPointPrompts`, on the preprocessed grid.
Does not own: how the network encodes them (`network/point_prompts.py`).

A point applies to the slices that its voxel covers, a box to every slice that it spans. Other slices are affected only
through the memory, if the plan has one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import UsageError
from autoseg.inference.tiles import Corner, Tiles
from autoseg.network.point_prompts import (
    BOX_FIRST,
    BOX_LAST,
    INSIDE,
    NUM_POINTS,
    OUTSIDE,
    PointPrompts,
    no_point_prompts,
)
from autoseg.preprocessing.transform import CaseTransform, Place

Voxel = tuple[int, int, int]

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class OrganPrompts:
    """Points and a box that help to find one organ; voxels are (i, j, k), as nibabel's arrays are indexed.

    Example:
        >>> prompts = {"liver": autoseg.OrganPrompts(inside=[(120, 80, 40)], outside=[(60, 80, 40)])}
        >>> prediction = autoseg.predict("scan.nii.gz", "my_run", point_prompts=prompts)

    Attributes:
        inside: Voxels inside the organ.
        outside: Voxels outside the organ.
        box: Two opposite corners of a box around the organ.
    """

    inside: Sequence[Voxel] = ()
    outside: Sequence[Voxel] = ()
    box: tuple[Voxel, Voxel] | None = None

    def __post_init__(self) -> None:
        """Check the voxels.

        Raises:
            UsageError: A voxel is not three integers, or a box does not have two corners.
        """
        for name, voxels in (("inside", self.inside), ("outside", self.outside), ("box", self.box or ())):
            if not all(_is_voxel(voxel) for voxel in voxels):
                raise UsageError(
                    f"OrganPrompts: {name}={voxels!r} is not a list of voxels. Give three whole numbers each, such as "
                    "inside=[(120, 200, 31)]."
                )
        if self.box is not None and len(self.box) != 2:
            raise UsageError(
                f"OrganPrompts: box={self.box!r} is not a box; expected two corners, "
                "such as ((60, 110, 12), (210, 260, 58))."
            )


@dataclass(frozen=True)
class Span:
    """A box on the preprocessed grid, given by its corners in (slice, row, column), the smaller numbers first."""

    low: Place
    high: Place

    def holds_slice(self, number: int) -> bool:
        """Return whether the center of a slice is inside, or is the nearest one to the center of a thin span."""
        return self.low[0] <= number <= self.high[0] or number == round((self.low[0] + self.high[0]) / 2)

    @property
    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the centers of the first and last pixel inside (row, column); the span's own center if it is small."""
        low, high = np.array(self.low[1:]) + 0.5, np.array(self.high[1:]) - 0.5
        middle = (low + high) / 2
        return np.minimum(low, middle), np.maximum(high, middle)

    def overlaps(self, sizes: Sequence[int]) -> bool:
        """Return whether any part is inside a grid of this many slices, rows and columns."""
        return all(
            high >= -0.5 and low <= size - 0.5 for low, high, size in zip(self.low, self.high, sizes, strict=True)
        )


@dataclass(frozen=True)
class PlacedPointPrompts:
    """Points on K organs, on the preprocessed grid.

    Attributes:
        points: The points on each organ, each with its kind.
        boxes: The box of each organ, or None.
    """

    points: tuple[tuple[tuple[Span, int], ...], ...]
    boxes: tuple[Span | None, ...]

    @property
    def num_points(self) -> int:
        """Return P, which is the same for all slices of the case, so that slices do not depend on each other."""
        return max(NUM_POINTS, *(2 + len(points) for points in self.points))

    def in_window(self, slices: Sequence[int], tiles: Tiles, corner: Corner) -> PointPrompts:
        """Return the prompts in one window of some slices; a box is cropped to the window.

        Args:
            slices: (B) numbers in the case.
            tiles: The windows of a slice.
            corner: The first row and column of the window in the padded slice.
        """
        shift = np.array(tiles.before) - np.array(corner)
        last = np.array(tiles.window) - 1
        point_prompts = no_point_prompts(len(slices), len(self.points), self.num_points)
        for b, number in enumerate(slices):
            for organ in range(len(self.points)):
                for p, (pixel, kind) in enumerate(self._in_slice(organ, number, shift, last)):
                    point_prompts.places[b, organ, p, 0], point_prompts.places[b, organ, p, 1] = (
                        float(pixel[0]),
                        float(pixel[1]),
                    )
                    point_prompts.kinds[b, organ, p] = kind
        return point_prompts

    def _in_slice(self, organ: int, number: int, shift: np.ndarray, last: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """Return the points on one organ in one slice, (row, column) in the window, with their kinds."""
        found: list[tuple[np.ndarray, int]] = []
        box = self.boxes[organ]
        if box is not None and box.holds_slice(number):
            low, high = (pixel + shift for pixel in box.pixels)
            if (high >= 0).all() and (low <= last).all():
                found += [(np.clip(low, 0, last), BOX_FIRST), (np.clip(high, 0, last), BOX_LAST)]
        for span, kind in self.points[organ]:
            pixel = sum(span.pixels) / 2 + shift
            if span.holds_slice(number) and (pixel >= -0.5).all() and (pixel <= last + 0.5).all():
                found.append((pixel, kind))
        return found


def place_point_prompts(
    point_prompts: Mapping[str, OrganPrompts], *, names: Sequence[str], transform: CaseTransform
) -> PlacedPointPrompts:
    """Convert a user's points and boxes to the preprocessed grid; a warning names those in the cropped border.

    Args:
        point_prompts: The prompts by the names of organs, which must be among those asked for.
        names: (K) names of the organs asked for.
        transform: The transform of the case.

    Raises:
        UsageError: A voxel is outside of the scan.
    """
    points: list[tuple[tuple[Span, int], ...]] = []
    boxes: list[Span | None] = []
    for name in names:
        own = point_prompts.get(name, OrganPrompts())
        kinds = [*((voxel, INSIDE) for voxel in own.inside), *((voxel, OUTSIDE) for voxel in own.outside)]
        points.append(tuple((_place([voxel], name, transform), kind) for voxel, kind in kinds))
        boxes.append(None if own.box is None else _place(own.box, name, transform))
    return PlacedPointPrompts(tuple(points), tuple(boxes))


def _is_voxel(value: object) -> bool:
    if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != 3:
        return False
    return all(isinstance(index, (int, np.integer)) for index in value)


def _place(voxels: Sequence[Voxel], name: str, transform: CaseTransform) -> Span:
    """Return the span of one voxel, or of the box between two voxels."""
    shape = transform.original.shape_zyx[::-1]
    for voxel in voxels:
        if not all(0 <= index < size for index, size in zip(voxel, shape, strict=True)):
            raise UsageError(
                f"point_prompts on {name!r}: voxel {tuple(voxel)} lies outside the scan of shape {shape}. Check it."
            )
    corners = np.array([transform.place((int(k), int(j), int(i))) for i, j, k in voxels])  # (n, 2, 3)
    low, high = corners.min(axis=(0, 1)).tolist(), corners.max(axis=(0, 1)).tolist()
    span = Span((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    if not span.overlaps(transform.resampled_shape):
        log.warning(
            "point_prompts on %r: %s lies in the empty border of the scan and says nothing.", name, list(voxels)
        )
    return span
