"""Writes the files of one predicted case.

Owns: which files there are, and their names.
Does not own: their formats (`io/image.py`, `preview.py`, `viewer_slices.py`, ..).
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from autoseg.export.preview import draw_preview
from autoseg.export.seg_nrrd import write_seg_nrrd
from autoseg.export.statistics import OrganStatistics, measure_organs
from autoseg.export.viewer_slices import pack_slices
from autoseg.inference.predictor import PredictedCase, Predictor
from autoseg.io.image import Scan, write_label_map, write_scan
from autoseg.preprocessing.inverse import UNSURE
from autoseg.system.atomic_files import file_sha256, write_bytes, write_json

PREVIEW_FOLDER, UNCERTAINTY_FOLDER = "preview", "uncertainty"
MASKS_FOLDER, PROBABILITIES_FOLDER = "masks", "probabilities"
FOLDERS = (PREVIEW_FOLDER, UNCERTAINTY_FOLDER)
FOLDERS_OF_CASES = (MASKS_FOLDER, PROBABILITIES_FOLDER)  # with a folder a case, and a file an organ in it
ALSO = (
    "uncertainty",
    "probabilities",
    "seg.nrrd",
    "seg.dcm",
    "masks",
)  # files of a case that are written when they are asked for
NAME_LETTERS = 60  # of an organ, in a file's name


def write_case(
    output: Path,
    case_id: str,
    scan: Scan,
    predicted: PredictedCase,
    *,
    predictor: Predictor,
    also: Sequence[str] = (),
    series: Path | None = None,
) -> tuple[dict[str, str], tuple[OrganStatistics, ...]]:
    """Write the label map, the preview, the slices for the report, and the additional files: all or none.

    Args:
        output: The output folder.
        case_id: The name of the case.
        scan: The first channel of the case.
        predicted: The prediction.
        predictor: The model, with the names and values of organs.
        also: The additional files, from `ALSO`.
        series: The folder of the DICOM series, for "seg.dcm".

    Returns:
        The SHA-256 by file name, relative to the folder; and the statistics of the organs.

    Raises:
        ScanFileError: The label map cannot be written, or no DICOM segmentation can refer to the series.
        OSError: Another file cannot be written.
    """
    written: list[str] = []
    try:
        if "seg.dcm" in also and series is not None:  # first: a series that lacks something fails its case as a whole
            written += _write_dicom_seg(output, case_id, scan, predicted, predictor, series=series)
        organs = measure_organs(
            predicted.labels_zyx,
            scan.array_zyx,
            geometry=scan.geometry,
            names=predictor.names,
            expected_dice=predicted.expected_dice,
        )
        for name in _write_files(output, case_id, scan, predicted, organs, predictor, also=also):
            written.append(name)
        return {name: file_sha256(output / name) for name in written}, organs
    except BaseException:
        remove_case(output, written)
        raise


def remove_case(output: Path, names: Iterable[str]) -> None:
    """Remove the files of a case that is not finished, since a label map alone would be taken for a result."""
    for name in names:
        (output / name).unlink(missing_ok=True)


def _write_dicom_seg(
    output: Path, case_id: str, scan: Scan, predicted: PredictedCase, predictor: Predictor, *, series: Path
) -> list[str]:
    from autoseg.export.dicom_seg import write_dicom_seg
    from autoseg.io.dicom import series_files  # SimpleITK and highdicom load only when they are asked for

    path, spacing = output / f"{case_id}.seg.dcm", scan.geometry.spacing_zyx_mm[0]
    slices = series_files(series)
    is_there = write_dicom_seg(path, predicted.labels_zyx, slices=slices, slice_mm=spacing, names=predictor.names)
    return [path.name] if is_there else []


def _write_files(
    output: Path,
    case_id: str,
    scan: Scan,
    predicted: PredictedCase,
    organs: Sequence[OrganStatistics],
    predictor: Predictor,
    *,
    also: Sequence[str],
) -> Iterator[str]:
    """Write the files of a case one by one, and yield the name of each."""
    names, labels, geometry = predictor.names, predicted.labels_zyx, scan.geometry
    write_label_map(output / label_map_name(case_id), labels, geometry=geometry, names=names)
    yield label_map_name(case_id)
    write_bytes(output / preview_name(case_id), draw_preview(scan, labels, organs))
    yield preview_name(case_id)
    packed = pack_slices(scan, labels, values=sorted(names), slice_axis=predictor.plans.data.slice_axis)
    write_json(output / slices_name(case_id), packed)
    yield slices_name(case_id)
    if predicted.uncertainty_zyx is not None:
        name = f"{UNCERTAINTY_FOLDER}/{case_id}.nii.gz"
        percent = np.rint(np.arange(UNSURE + 1) * (100 / UNSURE)).astype(np.uint8)
        write_scan(output / name, percent[predicted.uncertainty_zyx], geometry=geometry)
        yield name
    if "seg.nrrd" in also:
        write_seg_nrrd(output / f"{case_id}.seg.nrrd", labels, geometry=geometry, names=names)
        yield f"{case_id}.seg.nrrd"
    if predicted.percent_kzyx is not None:
        for (value, organ), percent in zip(names.items(), predicted.percent_kzyx, strict=True):
            name = f"{PROBABILITIES_FOLDER}/{case_id}/{_organ_file(value, organ)}"
            write_scan(output / name, percent, geometry=geometry)
            yield name
    if "masks" in also:
        for value, organ in names.items():
            name = f"{MASKS_FOLDER}/{case_id}/{_organ_file(value, organ)}"
            write_label_map(output / name, labels == value, geometry=geometry, names={1: organ})
            yield name


def _organ_file(value: int, name: str) -> str:
    """Return the name of an organ's own file: its value, and its name with underscores for special characters."""
    word = "".join(letter if letter.isalnum() else "_" for letter in name)[:NAME_LETTERS]
    return f"{value}_{word}.nii.gz"


def label_map_name(case_id: str) -> str:
    """Return the name of the label map."""
    return f"{case_id}.nii.gz"


def preview_name(case_id: str) -> str:
    """Return the name of the preview."""
    return f"{PREVIEW_FOLDER}/{case_id}.png"


def slices_name(case_id: str) -> str:
    """Return the name of the file with the slices for the report."""
    return f"{PREVIEW_FOLDER}/{case_id}.json"
