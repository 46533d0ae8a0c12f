"""Measures the overlap of two masks of one organ: voxel counts, Dice, IoU.

Owns: `Overlap`, `measure_overlap`, `volume_ml`.
Does not own: how an absent organ counts in a summary (`case.py`), distances between surfaces (`surface.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from autoseg.errors import GeometryError

CUBIC_MM_PER_ML = 1000.0


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a predicted and a reference mask on one grid.

    Attributes:
        prediction_voxels: The number of voxels of the prediction.
        reference_voxels: The number of voxels of the reference.
        shared_voxels: The number of voxels of the intersection.
    """

    prediction_voxels: int
    reference_voxels: int
    shared_voxels: int

    @property
    def dice(self) -> float | None:
        """Return twice the intersection over the sum of both; None if both masks are empty."""
        total = self.prediction_voxels + self.reference_voxels
        return 2 * self.shared_voxels / total if total else None

    @property
    def iou(self) -> float | None:
        """Return the intersection over the union; None if both masks are empty."""
        union = self.prediction_voxels + self.reference_voxels - self.shared_voxels
        return self.shared_voxels / union if union else None


def measure_overlap(prediction_mask: np.ndarray, *, reference_mask: np.ndarray) -> Overlap:
    """Count the voxels of two boolean masks of one shape.

    Raises:
        GeometryError: The shapes differ.
    """
    if prediction_mask.shape != reference_mask.shape:
        raise GeometryError(
            f"The prediction has shape {prediction_mask.shape} and the reference {reference_mask.shape}; "
            "both must be on one grid. Resample the prediction."
        )
    return Overlap(
        prediction_voxels=int(np.count_nonzero(prediction_mask)),
        reference_voxels=int(np.count_nonzero(reference_mask)),
        shared_voxels=int(np.count_nonzero(prediction_mask & reference_mask)),
    )


def volume_ml(num_voxels: int, *, spacing_zyx_mm: Sequence[float]) -> float:
    """Convert a number of voxels to milliliters."""
    return num_voxels * prod(spacing_zyx_mm) / CUBIC_MM_PER_ML
