"""What was drawn on an image series as a label map on its grid.

Owns: `read_annotated`: contours and segments of all files of a case together, and notes on what could not be used.
Does not own: which files belong to a case (`dicom_patients.py`), which structures become labels (`label_choice.py`).

Images keep their grid. Contours are drawn on it; segments of another grid go to the nearest voxels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.errors import ScanFileError, printable
from autoseg.io.byte_stream import display_name
from autoseg.io.dicom import read_slices
from autoseg.io.dicom_validation import check_dicom_file
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from dataset_conversion import dicom_segments, rtstruct
from dataset_conversion.contour_masks import draw_contours
from dataset_conversion.dicom_objects import RTSTRUCT, DicomHeader
from dataset_conversion.dicom_patients import AnnotatedSeries
from dataset_conversion.label_choice import LabelChoice
from dataset_conversion.label_grids import holds_same_voxels, labels_on_grid
from dataset_conversion.organ_masks import describe_overlaps, merge_masks
from dataset_conversion.source import Content, SourceCase, Volume


@dataclass(frozen=True)
class _Drawn:
    """What was drawn on a series, not yet in its voxels: by label value, contours, and label maps on its grid."""

    structures: Mapping[int, Sequence[rtstruct.Structure]]
    placed: Sequence[np.ndarray]


def read_annotated(case: SourceCase, *, series: Mapping[str, AnnotatedSeries], choice: LabelChoice) -> Content:
    """Read a series, and make a label map of what was drawn on it.

    Args:
        case: As `find` gave it.
        series: By case.
        choice: Which structures become which labels.

    Raises:
        ScanFileError: A file is damaged.
    """
    own = series[case.case_id]
    for path in own.slices:
        check_dicom_file(path)
    scan, _ = read_slices(own.slices)
    notes: list[str] = [*scan.warnings]
    drawn = _read_drawn(own.annotations, choice, grid=scan.geometry, notes=notes)
    merged = merge_masks(
        _make_masks(drawn, choice, grid=scan.geometry, notes=notes),
        shape_zyx=scan.geometry.shape_zyx,
        highest=len(choice.sources),
    )
    names = {value: label for label, value in choice.labels.items()}
    notes += describe_overlaps(merged.overlaps, names)
    return Content((Volume(scan),), Volume(Scan(merged.labels_zyx, scan.geometry)), tuple(notes))


def _read_drawn(
    annotations: Sequence[DicomHeader], choice: LabelChoice, *, grid: ImageGeometry, notes: list[str]
) -> _Drawn:
    """Read contours by label, and bring segments to the grid of the image."""
    structures: dict[int, list[rtstruct.Structure]] = {}
    placed: list[np.ndarray] = []
    for header in annotations:
        if header.sop_class != RTSTRUCT:
            placed.append(_place_segments(header.path, choice, grid=grid, notes=notes))
            continue
        for structure in rtstruct.read_structures(header.path):
            label = choice.label_of(structure.name)
            if label is not None:
                structures.setdefault(choice.labels[label], []).append(structure)
    return _Drawn(structures, placed)


def _make_masks(
    drawn: _Drawn, choice: LabelChoice, *, grid: ImageGeometry, notes: list[str]
) -> Iterator[tuple[int, np.ndarray]]:
    """Return value and mask of each label that is there, one at a time; adds to `notes` what could not be drawn."""
    for value in choice.labels.values():
        mask = np.zeros(grid.shape_zyx, dtype=bool)
        for structure in drawn.structures.get(value, ()):
            one = draw_contours(structure.contours_mm, grid)
            mask |= one.mask_zyx
            name = printable(structure.name)
            notes += [f"{name}: {note}" for note in one.notes]
            notes += [f"{name}: {count} {kind} bound no area." for kind, count in sorted(structure.left_out.items())]
            if structure.contours_mm and not one.mask_zyx.any():
                notes.append(f"{name}: its contours hold the center of no voxel, so nothing is left of it.")
        for labels in drawn.placed:
            mask |= labels == value
        if mask.any():
            yield value, mask


def _place_segments(path: Path, choice: LabelChoice, *, grid: ImageGeometry, notes: list[str]) -> np.ndarray:
    """Make a label map of the segments of a file, on the grid of the image.

    Raises:
        ScanFileError: The file is damaged, or its segments lie outside of the image.
    """
    segmentation = dicom_segments.read_segmentation(path)
    numbers: dict[int, list[int]] = {}
    for number, name in segmentation.names.items():
        label = choice.label_of(name)
        if label is not None:
            numbers.setdefault(choice.labels[label], []).append(number)
    masks = (
        (value, np.logical_or.reduce([segmentation.mask_of(number) for number in numbers[value]]))
        for value in sorted(numbers)
    )
    merged = merge_masks(masks, shape_zyx=segmentation.geometry.shape_zyx, highest=len(choice.sources))
    names = {value: label for label, value in choice.labels.items()}
    notes += describe_overlaps(merged.overlaps, names)
    placed = labels_on_grid(merged.labels_zyx, segmentation.geometry, target=grid)
    num_drawn, num_placed = np.count_nonzero(merged.labels_zyx), np.count_nonzero(placed)
    if num_drawn and not num_placed:
        raise ScanFileError(f"{display_name(path)}: all of its segments lie outside of the image. Export both again.")
    if not holds_same_voxels(segmentation.geometry, grid):
        notes.append(
            f"{display_name(path)} lies on another grid than the image; each voxel takes the nearest one's label."
        )
    elif num_placed < num_drawn:
        notes.append(f"{display_name(path)}: {num_drawn - num_placed} of {num_drawn} voxels lie outside of the image.")
    return placed
