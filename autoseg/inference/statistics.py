"""What a label map says in numbers: volume, mean intensity, place of each organ.

Owns: `measure_organs`, and the rows of `statistics.csv`.

A slice of the scan at a time is looked at, so that no array of the scan's size is made.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import printable
from autoseg.geometry import ImageGeometry

COLUMNS = (
    *("case", "organ", "label", "voxels", "volume_ml", "mean_intensity"),
    *("i_first", "i_last", "j_first", "j_last", "k_first", "k_last", "touches_border"),
)
MM3_PER_ML = 1000.0
FORMULA_STARTS = ("=", "+", "-", "@")  # a spreadsheet would compute a cell that begins so

Span = tuple[int, int]


@dataclass(frozen=True)
class OrganStatistics:
    """One organ in one scan.

    Attributes:
        name: Of the organ.
        value: In the label map.
        num_voxels: That have the value.
        volume_ml: Of them together.
        mean_intensity: Of the scan's first channel in them, in its own units; None for an organ that is absent.
        box_ijk: First and last voxel along i, j and k, as NIfTI counts; None for an organ that is absent.
        touches_border: Whether it reaches an edge of the scan, so that a part of it may lie outside.
    """

    name: str
    value: int
    num_voxels: int
    volume_ml: float
    mean_intensity: float | None
    box_ijk: tuple[Span, Span, Span] | None
    touches_border: bool


def measure_organs(
    labels_zyx: np.ndarray, image_zyx: np.ndarray, *, geometry: ImageGeometry, names: Mapping[int, str]
) -> tuple[OrganStatistics, ...]:
    """Measure every organ of a label map, also those that are not in it.

    Args:
        labels_zyx: Of unsigned integers.
        image_zyx: The scan's first channel, on the same grid.
        geometry: Of both.
        names: Name by label value.
    """
    values = sorted(names)
    table = np.zeros(np.iinfo(labels_zyx.dtype).max + 1, np.intp)  # label value to position, 0 for none
    table[values] = np.arange(1, len(values) + 1)
    counts = np.zeros(len(values) + 1, np.int64)
    sums = np.zeros(len(values) + 1)
    seen = [np.zeros((len(values) + 1, size), bool) for size in labels_zyx.shape]  # by axis: where an organ is
    for z, (labels, image) in enumerate(zip(labels_zyx, image_zyx, strict=True)):
        rows, columns = np.nonzero(labels)
        positions = table[labels[rows, columns]]
        in_slice = np.bincount(positions, minlength=len(counts))
        counts += in_slice
        sums += np.bincount(positions, weights=image[rows, columns], minlength=len(sums))
        seen[0][:, z] = in_slice > 0
        for where, numbers in zip(seen[1:], (rows, columns), strict=True):
            where |= np.bincount(positions * where.shape[1] + numbers, minlength=where.size).reshape(where.shape) > 0
    voxel_ml = float(np.prod(geometry.spacing_zyx_mm)) / MM3_PER_ML
    return tuple(
        OrganStatistics(
            name=names[value],
            value=value,
            num_voxels=int(counts[k]),
            volume_ml=float(counts[k] * voxel_ml),
            mean_intensity=float(sums[k] / counts[k]) if counts[k] else None,
            box_ijk=_box_ijk([where[k] for where in seen]) if counts[k] else None,
            touches_border=any(where[k, 0] or where[k, -1] for where in seen),
        )
        for k, value in enumerate(values, start=1)
    )


def format_statistics(cases: Iterable[tuple[str, Iterable[OrganStatistics]]]) -> str:
    """Lay the organs of cases out as CSV, a row a case and organ; no cell is one that a spreadsheet would compute."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for case_id, organs in cases:
        for organ in organs:
            box = organ.box_ijk or ((None, None),) * 3
            intensity = None if organ.mean_intensity is None else f"{organ.mean_intensity:.6g}"
            facts = (organ.value, organ.num_voxels, f"{organ.volume_ml:.6g}", intensity)
            edges = [number for span in box for number in span]
            writer.writerow(
                [_cell(case_id), _cell(organ.name), *facts, *edges, "yes" if organ.touches_border else "no"]
            )
    return text.getvalue()


def _box_ijk(seen_zyx: Sequence[np.ndarray]) -> tuple[Span, Span, Span]:
    k, j, i = ((int(places[0]), int(places[-1])) for places in map(np.flatnonzero, seen_zyx))
    return i, j, k


def _cell(text: str) -> str:
    safe = printable(text)
    return f"'{safe}" if safe.startswith(FORMULA_STARTS) else safe
