"""Pancreas-CT of the Cancer Imaging Archive (TCIA): 80 CTs of the abdomen with the pancreas.

    python -m dataset_conversion.pancreas_ct SOURCE OUT

Owns: where its files lie, which scans are one, the directions of its label maps.
Does not own: DICOM series (`autoseg.io.dicom`), turning of label maps (`label_grids.py`).

The scans are PANCREAS_0001/<study>/<series>/*.dcm, as the archive's downloader lays them down, or PANCREAS_0001.nii.gz
made from them; the label maps are label0001.nii.gz. Both may lie one or two folders deep.

The axes of a label map run otherwise than those of most programs' images. Its header decides where it puts the map onto
the scan. Where it does not, the order of the voxels decides for DICOM: in what others published, voxel (i, j, k) is
column i and row j of the file with the instance number k + 1; for NIfTI scans the header's directions decide alone.
Anything unusual is reported for the case.

Scans 25 and 70 are cuts of scan 2, and were taken back by the archive in 2020; where they are there, they are left out.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import Problem
from autoseg.io.dicom import is_dicom, read_slices
from autoseg.io.image import Scan, is_scan_name, read_labels, read_scan, scan_stem
from dataset_conversion.conversion import run_conversion
from dataset_conversion.dicom_objects import DicomHeader, read_header, sort_slices
from dataset_conversion.finding import nothing_found, report_missing
from dataset_conversion.label_grids import turned_onto
from dataset_conversion.source import Content, Origin, SourceCase, SourceDataset, Volume

ORIGIN = Origin(
    name="pancreas_ct",
    title="Pancreas-CT, the pancreas on CT",
    licence="CC BY 3.0",
    reference="Roth et al., Data from Pancreas-CT, The Cancer Imaging Archive, 2016, doi "
    "10.7937/K9/TCIA.2016.tNB1kqBU.",
    layout="PANCREAS_0001/ .. with a DICOM series each (or PANCREAS_0001.nii.gz ..) and label0001.nii.gz ..",
    get_it="Download scans and label maps from https://www.cancerimagingarchive.net/collection/pancreas-ct.",
)
TAKEN_BACK = (25, 70)
NUMBERS = [number for number in range(1, 83) if number not in TAKEN_BACK]
IMAGE, LABEL = re.compile(r"PANCREAS_(\d{4})", re.IGNORECASE), re.compile(r"label(\d{4})", re.IGNORECASE)
MOST_DEPTH = 2  # of folders around the scans and label maps


def find(source: Path) -> list[SourceDataset]:
    """Find the scans, and the label map of each.

    Raises:
        DatasetError: There are no scans, or no label maps.
    """
    images, labels = _find(source, IMAGE, folders=True), _find(source, LABEL, folders=False)
    lacking = [name for name, found in (("PANCREAS_0001 ..", images), ("label0001.nii.gz ..", labels)) if not found]
    if lacking:
        raise nothing_found(source, ORIGIN, problems=[Problem(name, "is missing.") for name in lacking])
    cases, problems = [], []
    for number in sorted({*images, *labels} - set(TAKEN_BACK)):
        name = _name(number)
        if number not in labels:
            problems.append(Problem(name, f"label{number:04d}.nii.gz is missing. Download the label maps again."))
        elif number in images:
            image = _series_folder(images[number])
            if image is None:
                problems.append(Problem(name, "expected one folder with DICOM files. Download the scan again."))
            else:
                cases.append(SourceCase(name, (image,), labels[number]))
    problems += report_missing(map(_name, NUMBERS), map(_name, images), origin=ORIGIN)
    if set(TAKEN_BACK) & set(images):
        problems.append(Problem("", "scans 25 and 70 are cuts of scan 2, and are left out.", is_error=False))
    return [SourceDataset(channel_names=["CT"], labels={"pancreas": 1}, cases=cases, problems=problems, read=read_case)]


def read_case(case: SourceCase) -> Content:
    """Read a scan and its label map, in the order of axes of the scan.

    Raises:
        ScanFileError: A file is damaged, or they do not fit together.
    """
    path = case.images[0]
    assert case.label is not None
    stored = read_labels(case.label)
    if not path.is_dir():
        scan = read_scan(path)
        image = Volume(scan, path)
        labels, note = turned_onto(stored, scan.geometry)
    else:
        headers = sort_slices([read_header(one) for one in sorted(path.iterdir()) if is_dicom(one)])
        scan, _ = read_slices([header.path for header in headers])
        image = Volume(scan)
        labels, note = turned_onto(stored, scan.geometry)
        labels, note = _compare_with_order(labels, note, _in_order(stored.array_zyx, headers))
    notes = [*scan.warnings, *([note] if note else [])]
    return Content((image,), Volume(Scan(np.ascontiguousarray(labels), scan.geometry)), tuple(notes))


def _in_order(stored: np.ndarray, headers: Sequence[DicomHeader]) -> np.ndarray | None:
    """Return the label map as the numbers of the slices have it; None where they have none."""
    numbers = [header.instance_number for header in headers]
    if None in numbers or len(set(numbers)) < len(numbers) or len(numbers) != len(stored):
        return None
    ranks = np.argsort(np.argsort(np.array(numbers, dtype=np.int64)))
    return np.asarray(stored[ranks])


def _compare_with_order(
    labels: np.ndarray, note: str | None, by_order: np.ndarray | None
) -> tuple[np.ndarray, str | None]:
    """Choose between a label map placed by its header and by its order; a note says that its header lost its place."""
    if by_order is None or np.array_equal(by_order, labels):
        return labels, note
    percent = 100 * np.count_nonzero((by_order != 0) & (labels != 0)) / max(1, np.count_nonzero(labels))
    conflict = f"its header and its slice numbers put the label map at different places ({percent:.0f} % in common)"
    check = "Look at the case in a viewer, and take it out if it does not fit."
    if note is None:
        return labels, f"{conflict}; the header is used. {check}"
    return by_order, f"{conflict}, and the header does not fit to the scan; the numbers are used. {check}"


def _find(source: Path, form: re.Pattern[str], *, folders: bool) -> dict[int, Path]:
    """Return the files of a form by number, and, where asked for, the folders."""
    found: dict[int, Path] = {}
    for depth in range(MOST_DEPTH + 1):
        for path in sorted(source.glob("*/" * depth + "*")):
            is_scan = path.is_file() and is_scan_name(path.name)
            match = form.fullmatch(scan_stem(path)) if is_scan or (folders and path.is_dir()) else None
            if match:
                found.setdefault(int(match[1]), path)
    return found


def _series_folder(path: Path) -> Path | None:
    """Return a scan file, or the only folder at or below a path with DICOM files; None if there are more."""
    if path.is_file():
        return path
    folders = [one for one in [path, *path.rglob("*")] if one.is_dir() and any(map(is_dicom, one.iterdir()))]
    return folders[0] if len(folders) == 1 else None


def _name(number: int) -> str:
    return f"pancreas_{number:04d}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
