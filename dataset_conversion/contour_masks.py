"""Contours of a structure as a mask on the grid of the image that they were drawn on.

Owns: `draw_contours`: which slice a contour lies on, what it covers there, and what cannot be drawn.
Does not own: where contours come from (`rtstruct.py`).

A voxel belongs to the structure if its center lies in an odd number of the contours of its slice (even-odd rule), so a
contour inside another one is a hole. Nothing is drawn between slices: contours between slices and
structures that skip slices are reported.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.draw import polygon

from autoseg.io.geometry import ImageGeometry

SLICE_SHARE = 0.25  # of the distance of slices, by which a contour may lie off the slice that it counts to
FEWEST_POINTS = 3


@dataclass(frozen=True)
class DrawnContours:
    """The result of drawing a structure's contours.

    Attributes:
        mask_zyx: bool, on the image's grid.
        notes: What could not be drawn, and warnings, in sentences without the structure's name.
    """

    mask_zyx: np.ndarray
    notes: tuple[str, ...]


def draw_contours(contours_mm: Sequence[np.ndarray], geometry: ImageGeometry) -> DrawnContours:
    """Draw closed contours on a grid.

    Args:
        contours_mm: Each (points, 3), in LPS.
        geometry: The grid of the image; contours lie in the planes of its first array axis.
    """
    mask = np.zeros(geometry.shape_zyx, dtype=bool)
    to_index = np.linalg.inv(geometry.affine_array)
    left_out: Counter[str] = Counter()
    slices = set()
    for contour in contours_mm:
        points = _to_indices(contour, to_index)  # (points, 3) xyz
        z = round(float(points[:, 2].mean())) if len(points) else 0
        fault = _find_fault(points, z, shape_zyx=mask.shape)
        if fault is not None:
            left_out[fault] += 1
            continue
        rows, columns = polygon(points[:, 1], points[:, 0], shape=mask.shape[1:])
        mask[z, rows, columns] ^= True
        slices.add(z)
    notes = [f"{count} of {len(contours_mm)} contours {fault}, and are left out." for fault, count in left_out.items()]
    gaps = max(slices) - min(slices) + 1 - len(slices) if slices else 0
    if gaps:
        notes.append(f"{gaps} slices between its first and last one have no contour, and stay empty.")
    return DrawnContours(mask, tuple(notes))


def _to_indices(contour_mm: np.ndarray, to_index: np.ndarray) -> np.ndarray:
    """Take points in LPS to fractional voxel indices, x y z."""
    ras = contour_mm * (-1.0, -1.0, 1.0)
    return ras @ to_index[:3, :3].T + to_index[:3, 3]


def _find_fault(points: np.ndarray, z: int, *, shape_zyx: tuple[int, ...]) -> str | None:
    """Say why a contour covers nothing of a slice, or None where it may."""
    if len(points) < FEWEST_POINTS:
        return f"have under {FEWEST_POINTS} points"
    if np.ptp(points[:, 2]) > 2 * SLICE_SHARE:
        return "do not lie in the plane of the image's slices"
    last = np.array(shape_zyx[::-1]) - 1
    if (points.max(axis=0) < -SLICE_SHARE).any() or (points.min(axis=0) > last + SLICE_SHARE).any():
        return "lie outside of the image"
    if np.abs(points[:, 2] - z).max() > SLICE_SHARE:
        return "lie between the image's slices"
    return None
