"""Clicks and boxes of a user, from voxels of the scan to pixels of a window.

Owns: `OrganClicks`, as a user gives them, and `PlacedClicks`, on the preprocessed grid.
Does not own: what the network makes of them (`network/clicks.py`).

A point speaks of its own slice, a box of every slice that it spans; other slices hear of them through the memory, where
the plan has one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoseg.errors import UsageError
from autoseg.inference.tiles import Corner, Tiles
from autoseg.network.clicks import BOX_FIRST, BOX_LAST, INSIDE, NOTHING, OUTSIDE, Clicks
from autoseg.preprocessing.case import CaseTransform

Voxel = tuple[int, int, int]
Place = tuple[float, float, float]  # slice, row, column of the preprocessed grid


@dataclass(frozen=True)
class OrganClicks:
    """What a user points at to help find one organ; voxels are (i, j, k), as nibabel's arrays are indexed.

    Attributes:
        inside: Voxels of the organ.
        outside: Voxels beside it.
        box: Two opposite corners of a box around it.
    """

    inside: tuple[Voxel, ...] = ()
    outside: tuple[Voxel, ...] = ()
    box: tuple[Voxel, Voxel] | None = None


@dataclass(frozen=True)
class PlacedClicks:
    """Clicks on K organs, on the preprocessed grid.

    Attributes:
        points: For each organ its points, each with its kind.
        boxes: For each organ the corners of its box, the smaller numbers first, or None.
    """

    points: tuple[tuple[tuple[Place, int], ...], ...]
    boxes: tuple[tuple[Place, Place] | None, ...]

    def in_window(self, slices: Sequence[int], tiles: Tiles, corner: Corner) -> Clicks:
        """Return what is pointed at in one window of some slices; the part of a box outside it is cut off.

        Args:
            slices: (B) numbers in the case.
            tiles: The cover of a slice.
            corner: First row and column of the window in the padded slice.
        """
        shift = np.array(tiles.before) - np.array(corner)
        last = np.array(tiles.window) - 1
        found = [[self._in_slice(organ, number, shift, last) for organ in range(len(self.points))] for number in slices]
        most = max(1, *(len(clicks) for row in found for clicks in row))
        places = torch.zeros(len(slices), len(self.points), most, 2)
        kinds = torch.full(places.shape[:-1], NOTHING)
        for b, row in enumerate(found):
            for k, clicks in enumerate(row):
                for p, (place, kind) in enumerate(clicks):
                    places[b, k, p], kinds[b, k, p] = torch.from_numpy(place), kind
        return Clicks(places, kinds)

    def _in_slice(self, organ: int, number: int, shift: np.ndarray, last: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """Return the clicks on one organ in one slice: rows and columns of the window, with kinds."""
        found: list[tuple[np.ndarray, int]] = []
        box = self.boxes[organ]
        if box is not None and round(box[0][0]) <= number <= round(box[1][0]):
            low, high = (np.array(corner[1:]) + shift for corner in box)
            if (high >= 0).all() and (low <= last).all():
                found += [(np.clip(low, 0, last), BOX_FIRST), (np.clip(high, 0, last), BOX_LAST)]
        for place, kind in self.points[organ]:
            pixel = np.array(place[1:]) + shift
            if round(place[0]) == number and (pixel >= -0.5).all() and (pixel <= last + 0.5).all():
                found.append((pixel, kind))
        return found


def place_clicks(clicks: Mapping[str, OrganClicks], *, names: Sequence[str], transform: CaseTransform) -> PlacedClicks:
    """Bring a user's clicks to the preprocessed grid.

    Args:
        clicks: By the organ's name.
        names: (K) of the organs asked for.
        transform: Of the case.

    Raises:
        UsageError: An organ is not asked for, or a voxel does not lie in the scan.
    """
    unknown = [name for name in clicks if name not in names]
    if unknown:
        raise UsageError(f"clicks: {unknown[0]!r} is not among the organs asked for: {', '.join(names)}.")
    points: list[tuple[tuple[Place, int], ...]] = []
    boxes: list[tuple[Place, Place] | None] = []
    for name in names:
        own = clicks.get(name, OrganClicks())
        kinds = [*((voxel, INSIDE) for voxel in own.inside), *((voxel, OUTSIDE) for voxel in own.outside)]
        points.append(tuple((_place(voxel, name, transform), kind) for voxel, kind in kinds))
        boxes.append(None if own.box is None else _ordered(*(_place(voxel, name, transform) for voxel in own.box)))
    return PlacedClicks(tuple(points), tuple(boxes))


def _place(voxel: Voxel, name: str, transform: CaseTransform) -> Place:
    i, j, k = voxel
    shape = transform.original.shape_zyx[::-1]
    if not all(0 <= index < size for index, size in zip(voxel, shape, strict=True)):
        raise UsageError(f"clicks on {name!r}: voxel {tuple(voxel)} lies outside the scan, whose shape is {shape}.")
    return transform.place((k, j, i))


def _ordered(one: Place, other: Place) -> tuple[Place, Place]:
    low, high = np.minimum(one, other).tolist(), np.maximum(one, other).tolist()
    return tuple(low), tuple(high)
