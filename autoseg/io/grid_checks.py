"""Checks that the grid of a scan is plausible, whatever the format of its file.

Owns: `check_extent` and `check_shear`.
Does not own: the grid itself (`geometry.py`), the headers that state it (`nifti_header.py`, `nrrd.py`, `dicom.py`).
"""

import numpy as np

from autoseg.errors import ScanFileError
from autoseg.io.geometry import ImageGeometry

MIN_SPACING_MM, MAX_SPACING_MM = 1e-4, 1000.0
CONFLICT_VOXELS = 0.5  # how far a corner may move by shear, or between two descriptions of a grid
MAX_ORIGIN_MM = 1e6  # a kilometre from the scanner's center; float32 knows places there to 0.06 mm


def check_extent(geometry: ImageGeometry, *, name: str) -> None:
    """Refuse implausible voxel sizes and positions.

    Raises:
        ScanFileError: A voxel side is too small or too large, or the first voxel is too far from the scanner's center.
    """
    spacing, origin = geometry.spacing_zyx_mm, geometry.origin_xyz_mm
    if not (min(spacing) >= MIN_SPACING_MM and max(spacing) <= MAX_SPACING_MM):
        raise ScanFileError(
            f"{name}: spacing_zyx_mm is {spacing}; expected {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g}. "
            f"Repair the header's spacing or its unit."
        )
    if max(map(abs, origin)) > MAX_ORIGIN_MM:
        raise ScanFileError(
            f"{name}: origin_xyz_mm is {origin}; expected at most {MAX_ORIGIN_MM:g} away from 0. Repair the header."
        )


def check_shear(geometry: ImageGeometry, *, name: str, warnings: list[str]) -> None:
    """Refuse axes that are so oblique to each other that a right-angled grid would move a corner too far.

    Raises:
        ScanFileError: A corner would move by more than half a voxel.
    """
    direction = np.array(geometry.direction)
    left, _, right = np.linalg.svd(direction)
    moved = (left @ right - direction) * geometry.spacing_zyx_mm[::-1]  # (3, 3): mm a voxel step, columns x, y, z
    half = (np.array(geometry.shape_zyx[::-1]) - 1) / 2
    signs = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]])  # opposite corners move alike about the center
    distance = np.linalg.norm((signs * half) @ moved.T, axis=1).max() / min(geometry.spacing_zyx_mm)
    if not distance <= CONFLICT_VOXELS:
        raise ScanFileError(
            f"{name}: its axes are not at right angles; the nearest right-angled grid has a corner {distance:.3g} "
            f"voxels away, at most {CONFLICT_VOXELS} is accepted. Resample the scan onto a right-angled grid."
        )
    if distance > 0.01:
        warnings.append(f"the axes are not quite at right angles (a corner is {distance:.2g} voxels off).")
