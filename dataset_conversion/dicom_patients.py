"""A tree of DICOM files as image series and the contours and segmentations that belong to them.

Owns: `find_annotated_series`: which files make a series, which series an annotation is meant for, names of cases.
Does not own: the content of files (`dicom_objects.py` and what builds on it).

An annotation belongs to the series that it refers to by its UID, or else to the only one in its coordinate system
(frame of reference). Folders may be cut in any way: a folder a series, or all files of a patient in one. The first
folder below the source stands for the patient, and gives the case its name; no text inside of files does.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import Problem, ScanFileError, printable
from autoseg.io.dicom import INDEX_NAME, is_dicom
from autoseg.system.progress import track
from dataset_conversion.dicom_objects import DicomHeader, read_header, sort_slices


@dataclass(frozen=True)
class AnnotatedSeries:
    """An image series and its annotations.

    Attributes:
        case_id: Made of the patient's folder; with a number where the patient has several such series.
        patient: The patient's folder.
        slices: The files of the series, from one end to the other.
        modality: In small letters, such as "ct".
        annotations: What was drawn on it, by file.
    """

    case_id: str
    patient: str
    slices: tuple[Path, ...]
    modality: str
    annotations: tuple[DicomHeader, ...]

    @property
    def annotation_place(self) -> Path:
        """The annotation, or the nearest folder that holds all of them."""
        return Path(os.path.commonpath([header.path for header in self.annotations]))


def find_annotated_series(source: Path) -> tuple[list[AnnotatedSeries], list[Problem]]:
    """Find all annotated series below a folder, by case, and say what fits nowhere.

    Raises:
        UsageError: pydicom is not installed.
    """
    headers, problems = _read_headers(source)
    series: dict[tuple[str, Path], list[DicomHeader]] = defaultdict(list)
    for header in headers:
        if header.is_slice:
            series[header.series_uid, header.path.parent].append(header)
    drawn: dict[tuple[str, Path], list[DicomHeader]] = defaultdict(list)
    for header in headers:
        if header.is_annotation:
            found = _find_series(header, series)
            if isinstance(found, str):
                problems.append(Problem(_below(header.path, source), found))
            else:
                drawn[found].append(header)
    problems += _report_bare_patients(source, series, drawn)
    return _name_cases(source, series, drawn), problems


def _read_headers(source: Path) -> tuple[list[DicomHeader], list[Problem]]:
    headers, problems = [], []
    for path in track(list(_walk(source)), what="reading DICOM headers", unit="file"):
        try:
            headers.append(read_header(path))
        except ScanFileError as error:
            problems.append(Problem(_below(path, source), str(error)))
    return headers, problems


def _walk(source: Path) -> Iterator[Path]:
    """Return the DICOM files of a tree, by name; hidden ones and the index of a disc are none."""
    for folder, names, files in os.walk(source):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder) / name
            if not name.startswith(".") and name != INDEX_NAME and is_dicom(path):
                yield path


def _find_series(
    header: DicomHeader, series: Mapping[tuple[str, Path], Sequence[DicomHeader]]
) -> tuple[str, Path] | str:
    """Return the series that an annotation is meant for, or say why there is none."""
    by_uid = [key for key in series if key[0] in header.referenced_series]
    by_frame = [key for key in series if series[key][0].frame_uid in set(header.referenced_frames) - {""}]
    both = [key for key in by_uid if key in by_frame]
    for found in (both, by_uid, by_frame if not by_uid else []):
        if len(found) == 1:
            return found[0]
    if by_uid or by_frame:
        count = len(by_uid or by_frame)
        return f"{count} image series fit to it. Leave the one that it was drawn on, or put the others elsewhere."
    return "the image series that it was drawn on is not there. Copy the series into the source."


def _report_bare_patients(
    source: Path,
    series: Mapping[tuple[str, Path], Sequence[DicomHeader]],
    drawn: Mapping[tuple[str, Path], Sequence[DicomHeader]],
) -> list[Problem]:
    """Return a problem for each patient of whom there are images and no annotation of any."""
    annotated = {_patient(folder, source) for _, folder in drawn}
    bare = sorted({_patient(folder, source) for _, folder in series} - annotated)
    message = "no contours and no segmentation refer to its images. Copy them into the source."
    return [Problem(name, message) for name in bare]


def _name_cases(
    source: Path,
    series: Mapping[tuple[str, Path], Sequence[DicomHeader]],
    drawn: Mapping[tuple[str, Path], Sequence[DicomHeader]],
) -> list[AnnotatedSeries]:
    """Name each annotated series after its patient."""
    patients: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for key in sorted(drawn, key=lambda key: (key[1], key[0])):
        patients[_patient(key[1], source)].append(key)
    cases = []
    for patient, keys in patients.items():
        name = re.sub(r"[^\w.-]+", "_", patient)
        for number, key in enumerate(keys, start=1):
            slices = sort_slices(series[key])
            cases.append(
                AnnotatedSeries(
                    case_id=name if len(keys) == 1 else f"{name}_{number}",
                    patient=patient,
                    slices=tuple(header.path for header in slices),
                    modality=slices[0].modality,
                    annotations=tuple(sorted(drawn[key], key=lambda header: header.path)),
                )
            )
    return cases


def _patient(folder: Path, source: Path) -> str:
    parts = folder.relative_to(source).parts
    return parts[0] if parts else source.resolve().name


def _below(path: Path, source: Path) -> str:
    return printable(path.relative_to(source).as_posix())
