"""Label maps on the grid of their image, wherever they were drawn.

Owns: `labels_on_grid`, which goes to the nearest voxel, and `turned_onto`, which only turns and flips.
Does not own: what makes a label map (`dicom_segments.py`, `contour_masks.py`), images, which are never resampled.
"""

import numpy as np
from scipy import ndimage

from autoseg.errors import ScanFileError
from autoseg.io.geometry import ImageGeometry, canonical_axis_map, corner_distance_mm, grids_differ, reorient
from autoseg.io.image import Scan

ROUNDED_SPACING = 0.02  # by which share the spacings of one grid differ where a program rounded them
WHOLE_VOXEL = 0.01  # grids whose voxels lie so near to each other hold the same voxels


def labels_on_grid(labels_zyx: np.ndarray, geometry: ImageGeometry, *, target: ImageGeometry) -> np.ndarray:
    """Give each voxel of the target the label of the voxel in which its center lies; 0 outside.

    Where both grids hold the same voxels, turned, flipped or cropped, none is moved.

    Args:
        labels_zyx: Integers.
        geometry: Their grid.
        target: The grid of the result.
    """
    matrix, offset = _index_map(geometry, target)
    return ndimage.affine_transform(
        labels_zyx, matrix, offset=offset, output_shape=target.shape_zyx, order=0, mode="grid-constant", cval=0
    )


def holds_same_voxels(geometry: ImageGeometry, target: ImageGeometry) -> bool:
    """Return whether two grids have the same voxels where they overlap."""
    matrix, offset = _index_map(geometry, target)
    reach = matrix @ (np.array(target.shape_zyx) - 1.0)
    drift = np.abs(reach - matrix.round() @ (np.array(target.shape_zyx) - 1.0)).max()
    is_turned = sorted(np.abs(matrix.round()).sum(axis=0)) == [1, 1, 1]
    return bool(is_turned and drift <= WHOLE_VOXEL and np.abs(offset - offset.round()).max() <= WHOLE_VOXEL)


def _index_map(geometry: ImageGeometry, target: ImageGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Return matrix and offset that take an index zyx of the target to one of the grid."""
    both = np.linalg.inv(geometry.affine_array) @ target.affine_array  # xyz
    return both[:3, :3][::-1, ::-1], both[:3, 3][::-1]


def turned_onto(labels: Scan, grid: ImageGeometry) -> tuple[np.ndarray, str | None]:
    """Return a label map in the axis order and directions of an image's grid, by the headers of both.

    Some sources publish label maps whose headers have the right directions but a wrong position: the position is then
    ignored, with a note.

    Returns:
        The labels, and a note where the places differ.

    Raises:
        ScanFileError: The size or the spacing differs.
    """
    own, other = canonical_axis_map(labels.geometry), canonical_axis_map(grid)
    turned = other.undo(own.apply(labels.array_zyx))
    flat, flat_grid = reorient(labels.geometry, own), reorient(grid, other)
    difference = grids_differ(flat_grid, flat)
    if difference is None:
        return turned, None
    if flat.shape_zyx != flat_grid.shape_zyx or not np.allclose(
        flat.spacing_zyx_mm, flat_grid.spacing_zyx_mm, rtol=ROUNDED_SPACING
    ):
        raise ScanFileError(difference)
    apart = corner_distance_mm(flat, flat_grid)
    return turned, f"the label map's header puts it {apart:.4g} mm off the image; only its directions are used."
