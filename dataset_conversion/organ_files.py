"""A case whose organs are masks in files of their own, in one folder.

Owns: `read_organ_files`, `list_organs`.
Does not own: which files make a case (the conversions), which of two masks a common voxel goes to (`organ_masks.py`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from autoseg.errors import ScanFileError
from autoseg.io.byte_stream import display_name
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan, is_scan_name, read_labels, scan_stem
from dataset_conversion.case_files import put_on_grid, read_image
from dataset_conversion.organ_masks import describe_overlaps, merge_masks
from dataset_conversion.source import Content, SourceCase, Volume


def list_organs(case: SourceCase) -> dict[str, Path]:
    """Return the mask files in the folder `case.label` by their names without endings; its image may lie there too."""
    assert case.label is not None
    return {
        scan_stem(path): path
        for path in sorted(case.label.iterdir())
        if is_scan_name(path.name) and path.is_file() and path not in case.images
    }


def read_organ_files(case: SourceCase, *, organs: Mapping[str, int], names: Mapping[int, str]) -> Content:
    """Read the channels of a case, and make a label map of the masks in the folder `case.label`.

    Args:
        case: As the conversion found it.
        organs: Label value by file name without ending; several files may have one value; others are not read.
        names: Of the values, for notes.

    Raises:
        ScanFileError: A file is damaged, is no mask, or lies on another grid than the image.
    """
    channels = tuple(volume for path in case.images for volume in read_image(path))
    if case.label is None:
        return Content(channels, None)
    grid = channels[0].scan.geometry
    files: dict[int, list[Path]] = {}
    for stem, path in list_organs(case).items():
        if stem in organs:
            files.setdefault(organs[stem], []).append(path)
    merged = merge_masks(_read_masks(files, grid), shape_zyx=grid.shape_zyx, highest=max(organs.values()))
    labels = Volume(Scan(merged.labels_zyx, grid))
    return Content(channels, labels, describe_overlaps(merged.overlaps, names))


def _read_masks(files: Mapping[int, list[Path]], grid: ImageGeometry) -> Iterator[tuple[int, np.ndarray]]:
    """Return value and mask of each organ; the files of one organ are one mask."""
    for value in sorted(files):
        mask = _read_mask(files[value][0], grid)
        for path in files[value][1:]:
            mask = mask | _read_mask(path, grid)
        yield value, mask


def _read_mask(path: Path, grid: ImageGeometry) -> np.ndarray:
    """Read one mask in the order of axes of the image's grid."""
    scan = read_labels(path)
    try:
        array = put_on_grid(scan, grid).array_zyx
    except ScanFileError as error:
        raise ScanFileError(f"{display_name(path)}: {error}") from error
    mask = array != 0
    if mask.any() and np.ptp(array[mask]):
        raise ScanFileError(
            f"{display_name(path)} holds more than one value beside 0; expected the mask of one organ. Export each "
            "organ as a file of its own."
        )
    return np.asarray(mask)
