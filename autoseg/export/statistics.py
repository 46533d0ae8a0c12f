"""Measures the organs of a label map: volume, mean intensity, and bounding box.

Owns: `measure_organs`, and the rows of `statistics.csv`.

It works plane by plane, without further arrays of the scan's size.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autoseg.export.csv_safety import cell
from autoseg.io.geometry import ImageGeometry

COLUMNS = (
    *("case", "organ", "label", "voxels", "volume_ml", "mean_intensity"),
    *("i_first", "i_last", "j_first", "j_last", "k_first", "k_last", "touches_border"),
    "expected_dice",
)

Span = tuple[int, int]


@dataclass(frozen=True)
class OrganStatistics:
    """The statistics of one organ in one scan.

    Attributes:
        name: The name of the organ.
        value: The value in the label map.
        num_voxels: The number of voxels.
        volume_ml: The volume.
        mean_intensity: The mean of the scan's first channel, in its own units; None for an absent organ.
        box_ijk: The first and last voxel along i, j and k, as NIfTI counts; None for an absent organ.
        touches_border: Whether the organ touches the border of the scan, so that a part of it may be outside.
        expected_dice: The Dice that the network expects of its mask, 0 to 1; None for an absent organ.
    """

    name: str
    value: int
    num_voxels: int
    volume_ml: float
    mean_intensity: float | None
    box_ijk: tuple[Span, Span, Span] | None
    touches_border: bool
    expected_dice: float | None = None


def measure_organs(
    labels_zyx: np.ndarray,
    image_zyx: np.ndarray,
    *,
    geometry: ImageGeometry,
    names: Mapping[int, str],
    expected_dice: Mapping[int, float | None] | None = None,
) -> tuple[OrganStatistics, ...]:
    """Measure every organ of a label map, including absent ones.

    Args:
        labels_zyx: Unsigned integers.
        image_zyx: The first channel of the scan, on the same grid.
        geometry: The grid of both.
        names: The names by label value.
        expected_dice: The expected Dice by label value.
    """
    boxes = ndimage.find_objects(labels_zyx)  # by value, from 1 to the largest
    counts, sums = _count_and_sum(labels_zyx, image_zyx, num_values=len(boxes) + 1)
    found = []
    for value, name in sorted(names.items()):
        box = boxes[value - 1] if value <= len(boxes) else None
        if box is None:
            found.append(OrganStatistics(name, value, 0, 0.0, None, None, touches_border=False))
            continue
        voxels = int(counts[value])
        k, j, i = ((part.start, part.stop - 1) for part in box)
        touches = any(part.start == 0 or part.stop == size for part, size in zip(box, labels_zyx.shape, strict=True))
        mean = float(sums[value]) / voxels
        dice = (expected_dice or {}).get(value)
        found.append(OrganStatistics(name, value, voxels, voxels * geometry.voxel_ml, mean, (i, j, k), touches, dice))
    return tuple(found)


def _count_and_sum(labels_zyx: np.ndarray, image_zyx: np.ndarray, *, num_values: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the voxels of each value and sum the image in them, plane by plane: two of (num_values)."""
    counts, sums = np.zeros(num_values, np.int64), np.zeros(num_values, np.float64)
    for labels, image in zip(labels_zyx, image_zyx, strict=True):
        inside = labels > 0
        values = labels[inside]
        if values.size:
            counts += np.bincount(values, minlength=num_values)
            sums += np.bincount(values, weights=image[inside], minlength=num_values)
    return counts, sums


def format_statistics(cases: Iterable[tuple[str, Iterable[OrganStatistics]]]) -> str:
    """Return the organs of cases as CSV, one row per case and organ; no cell is a formula for a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for case_id, organs in cases:
        for organ in organs:
            box = organ.box_ijk or ((None, None),) * 3
            intensity = None if organ.mean_intensity is None else f"{organ.mean_intensity:.6g}"
            dice = None if organ.expected_dice is None else f"{organ.expected_dice:.3f}"
            facts = (organ.value, organ.num_voxels, f"{organ.volume_ml:.6g}", intensity)
            edges = [number for span in box for number in span]
            touches = "yes" if organ.touches_border else "no"
            writer.writerow([cell(case_id), cell(organ.name), *facts, *edges, touches, dice])
    return text.getvalue()
