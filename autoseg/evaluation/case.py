"""Computes the metrics of each organ in one case from its predicted and reference label maps.

Owns: `OrganMetrics`, `evaluate_case`, `missed_case`, and the rule for empty masks, which applies to all metrics:

* An organ in neither label map does not count: every metric is None.
* An organ only in the prediction is a *false positive*: Dice, IoU and NSD are 0, HD95 is None.
* An organ only in the reference is a *miss*: Dice, IoU and NSD are 0, HD95 is None. There is no distance to a surface
  that does not exist, and any number in its place would be arbitrary; so read HD95 together with the counts of misses
  and false positives.

Does not own: files (`folders.py`), means over cases (`report.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import find_objects

from autoseg.errors import GeometryError
from autoseg.evaluation.overlap import Overlap, measure_overlap, volume_ml
from autoseg.evaluation.surface import measure_surfaces

Outcome = Literal["absent", "found", "missed", "false positive"]
Box = tuple[slice, ...]

EMPTY_MASK_RULES = (
    "An organ that neither the prediction nor the reference holds does not count.",
    "An organ that only one of the two holds has Dice, IoU and NSD 0 and no HD95: a miss or a false positive.",
    "A case without a usable prediction counts as a miss of every organ in its reference.",
    "Voxels with the ignore value in the reference count nowhere.",
)


@dataclass(frozen=True)
class OrganMetrics:
    """The metrics of one organ in one case; None for a metric that does not count.

    Attributes:
        dice: The Dice coefficient, 0 to 1.
        iou: The intersection over union, 0 to 1.
        nsd: The normalized surface Dice at the tolerance, 0 to 1; None if surfaces were not asked for.
        hd95_mm: The 95th percentile Hausdorff distance, if the organ is in both label maps.
        prediction_ml: The predicted volume.
        reference_ml: The true volume.
    """

    dice: float | None
    iou: float | None
    nsd: float | None
    hd95_mm: float | None
    prediction_ml: float
    reference_ml: float

    @property
    def outcome(self) -> Outcome:
        """Return the outcome: found, missed, false positive or absent."""
        return _OUTCOMES[self.prediction_ml > 0, self.reference_ml > 0]


_OUTCOMES: dict[tuple[bool, bool], Outcome] = {
    (False, False): "absent",
    (True, True): "found",
    (False, True): "missed",
    (True, False): "false positive",
}


def evaluate_case(
    prediction_zyx: np.ndarray,
    reference_zyx: np.ndarray,
    *,
    spacing_zyx_mm: Sequence[float],
    organ_values: Iterable[int] | Mapping[int, Sequence[int]],
    tolerance_mm: float = 1.0,
    surface: bool = True,
    ignore_value: int | None = None,
) -> dict[int, OrganMetrics]:
    """Compare two label maps of one grid, organ by organ.

    Args:
        prediction_zyx: The predicted label map, integers.
        reference_zyx: The reference label map, integers of the same shape.
        spacing_zyx_mm: The voxel size along each array axis.
        organ_values: The label values to measure, or for each key of the result the values that are measured as one;
            other values count as background.
        tolerance_mm: The distance up to which a surface counts as right, for the NSD.
        surface: Whether to compute NSD and HD95, which take most of the time.
        ignore_value: The reference value of voxels that are ignored in both label maps.

    Returns:
        Metrics by label value or key, in the order of `organ_values`; see the module for empty masks.

    Raises:
        GeometryError: The shapes differ.
    """
    if prediction_zyx.shape != reference_zyx.shape:
        raise GeometryError(
            f"The prediction has shape_zyx {prediction_zyx.shape} and the reference {reference_zyx.shape}; "
            "both must be on one grid. Resample the prediction."
        )
    if ignore_value is not None:
        prediction_zyx = np.where(reference_zyx == ignore_value, 0, prediction_zyx)
    items = organ_values if isinstance(organ_values, Mapping) else {value: (value,) for value in organ_values}
    values = {value for own in items.values() for value in own}
    both_boxes = [organ_boxes(labels, organ_values=values) for labels in (prediction_zyx, reference_zyx)]
    metrics: dict[int, OrganMetrics] = {}
    for key, own in items.items():
        box = _join([boxes[value] for boxes in both_boxes for value in own if value in boxes])
        crop = _grow(box, shape=reference_zyx.shape)
        metrics[key] = _measure(
            _mask(prediction_zyx[crop], own),
            _mask(reference_zyx[crop], own),
            spacing_zyx_mm=spacing_zyx_mm,
            tolerance_mm=tolerance_mm if surface else None,
        )
    return metrics


def missed_case(
    reference_zyx: np.ndarray,
    *,
    spacing_zyx_mm: Sequence[float],
    organ_values: Iterable[int] | Mapping[int, Sequence[int]],
    ignore_value: int | None = None,
) -> dict[int, OrganMetrics]:
    """Return the metrics of a case that has no prediction: a miss of every organ in its reference."""
    return evaluate_case(
        np.zeros_like(reference_zyx),
        reference_zyx,
        spacing_zyx_mm=spacing_zyx_mm,
        organ_values=organ_values,
        ignore_value=ignore_value,
    )


def organ_boxes(labels_zyx: np.ndarray, *, organ_values: Iterable[int]) -> dict[int, Box]:
    """Find the bounding boxes of the values in a label map, in one pass over it."""
    asked = sorted(organ_values)
    boxes = find_objects(labels_zyx, max_label=asked[-1]) if asked else []
    return {value: boxes[value - 1] for value in asked if boxes[value - 1] is not None}


def _mask(labels_zyx: np.ndarray, values: Sequence[int]) -> np.ndarray:
    mask: np.ndarray = labels_zyx == values[0] if len(values) == 1 else np.isin(labels_zyx, values)
    return mask


def _measure(
    prediction: np.ndarray, reference: np.ndarray, *, spacing_zyx_mm: Sequence[float], tolerance_mm: float | None
) -> OrganMetrics:
    overlap: Overlap = measure_overlap(prediction, reference_mask=reference)
    nsd = hd95_mm = None
    if tolerance_mm is not None and overlap.dice is not None:
        distances = measure_surfaces(prediction, reference_mask=reference, spacing_zyx_mm=spacing_zyx_mm)
        nsd = 0.0 if distances is None else distances.nsd(tolerance_mm=tolerance_mm)
        hd95_mm = None if distances is None else distances.hd95_mm
    return OrganMetrics(
        dice=overlap.dice,
        iou=overlap.iou,
        nsd=nsd,
        hd95_mm=hd95_mm,
        prediction_ml=volume_ml(overlap.prediction_voxels, spacing_zyx_mm=spacing_zyx_mm),
        reference_ml=volume_ml(overlap.reference_voxels, spacing_zyx_mm=spacing_zyx_mm),
    )


def _join(boxes: Sequence[Box]) -> Box | None:
    if not boxes:
        return None
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def _grow(box: Box | None, *, shape: tuple[int, ...]) -> Box:
    """Grow a box by one voxel on each side within the grid, so that its axes have one voxel only if the grid's do."""
    if box is None:
        return tuple(slice(0, 0) for _ in shape)
    return tuple(slice(max(s.start - 1, 0), min(s.stop + 1, size)) for s, size in zip(box, shape, strict=True))
