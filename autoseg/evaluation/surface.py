"""Measures the distances between the surfaces of two masks, in millimeters.

Owns: `SurfaceDistances` with its 95th percentile Hausdorff distance (HD95) and normalized surface Dice (NSD).
Does not own: how an absent organ counts (`case.py`).

A *boundary voxel* belongs to the mask and has a face neighbor outside of it, or outside of the grid. An axis with a
single voxel has no neighbors, so the boundary of a single slice is its outline. Distances are exact between the centers
of boundary voxels, for any spacing. A k-d tree over the boundary finds the nearest one: the same numbers as a distance
transform of the grid, at the cost of the surface instead of the volume.

NSD: Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for radiotherapy", 2021, with boundary
voxels as the elements of a surface. HD95: the larger of the two directed 95th percentiles, as MONAI computes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from autoseg.errors import GeometryError

# Headers hold spacing as float32; a distance of one voxel must not fail a tolerance of one voxel by a rounding error.
ROUNDING_MM = 1e-4


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between the boundary voxels of two masks, neither of them empty.

    Attributes:
        prediction_mm: For each boundary voxel of the prediction, the distance to the reference's boundary.
        reference_mm: For each boundary voxel of the reference, the distance to the prediction's boundary.
    """

    prediction_mm: np.ndarray
    reference_mm: np.ndarray

    @property
    def hd95_mm(self) -> float:
        """Return the larger of the two directed 95th percentiles (interpolated linearly)."""
        return float(max(np.percentile(self.prediction_mm, 95), np.percentile(self.reference_mm, 95)))

    def nsd(self, *, tolerance_mm: float) -> float:
        """Return the fraction of boundary voxels of both masks within the tolerance of the other boundary."""
        limit = tolerance_mm + ROUNDING_MM
        near = np.count_nonzero(self.prediction_mm <= limit) + np.count_nonzero(self.reference_mm <= limit)
        return near / (len(self.prediction_mm) + len(self.reference_mm))


def measure_surfaces(
    prediction_mask: np.ndarray, *, reference_mask: np.ndarray, spacing_zyx_mm: Sequence[float]
) -> SurfaceDistances | None:
    """Measure the distances between the boundaries of two boolean masks of one shape; None if either is empty.

    Raises:
        GeometryError: The shapes differ.
    """
    if prediction_mask.shape != reference_mask.shape:
        raise GeometryError(
            f"The prediction has shape {prediction_mask.shape} and the reference {reference_mask.shape}; "
            "both must be on one grid. Resample the prediction."
        )
    prediction = boundary_mask(prediction_mask)
    reference = boundary_mask(reference_mask)
    if not prediction.any() or not reference.any():
        return None
    return SurfaceDistances(
        prediction_mm=_distances(prediction, to=reference, spacing_zyx_mm=spacing_zyx_mm),
        reference_mm=_distances(reference, to=prediction, spacing_zyx_mm=spacing_zyx_mm),
    )


def boundary_mask(mask: np.ndarray) -> np.ndarray:
    """Mark the voxels of a mask that have a face neighbor outside of it; all of a mask of one voxel."""
    neighbors = np.zeros((3,) * mask.ndim, dtype=bool)
    center = (1,) * mask.ndim
    neighbors[center] = True
    for axis, size in enumerate(mask.shape):
        if size > 1:
            neighbors[tuple(slice(None) if other == axis else 1 for other in range(mask.ndim))] = True
    return mask & ~binary_erosion(mask, structure=neighbors, border_value=0)


def _distances(boundary: np.ndarray, *, to: np.ndarray, spacing_zyx_mm: Sequence[float]) -> np.ndarray:
    distances = np.zeros(np.count_nonzero(boundary))
    apart = np.flatnonzero(~to[boundary])  # a voxel of both boundaries is at distance 0: no search
    if len(apart):
        points = np.argwhere(boundary)[apart] * np.asarray(spacing_zyx_mm, dtype=float)
        # Voxels lie on a grid: a balanced tree is slower to build and no faster to ask.
        tree = cKDTree(np.argwhere(to) * np.asarray(spacing_zyx_mm, dtype=float), balanced_tree=False)
        distances[apart] = tree.query(points)[0]
    return distances
