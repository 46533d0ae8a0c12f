"""The attributes of DICOM files: what each one is, which series it belongs to or refers to, where its slice lies.

Owns: `read_object`, `read_header`, `sort_slices`, and the only use of pydicom in the conversions.
Does not own: the voxels of a series (`autoseg.io.dicom`), contours (`rtstruct.py`), segments (`dicom_segments.py`).

Every file passes `check_dicom_file` first, so that no length in it is believed that the file does not hold. Of the
patient and the study nothing is read; messages carry no value of an attribute that could be text.
"""

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from autoseg.errors import ScanFileError, UsageError
from autoseg.io.byte_stream import display_name
from autoseg.io.dicom_validation import check_dicom_file

RTSTRUCT, SEGMENTATION = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.66.4"  # SOP classes
HEADER = ("SOPClassUID", "Modality", "SeriesInstanceUID", "FrameOfReferenceUID", "InstanceNumber", "Rows", "Columns")
PLACE = ("ImagePositionPatient", "ImageOrientationPatient")
REFERENCES = ("ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence")


@dataclass(frozen=True)
class DicomHeader:
    """What a DICOM file is.

    Attributes:
        path: The file.
        sop_class: The UID of its kind, such as `RTSTRUCT`.
        modality: In small letters, such as "ct".
        series_uid: Of the series that it belongs to.
        frame_uid: Of the coordinate system, "" if there is none.
        referenced_series: UIDs of the image series that it annotates.
        referenced_frames: UIDs of the coordinate systems that it annotates.
        instance_number: Its number in the series; None where there is none.
        place: Position (3) and direction (6) of the slice in LPS; None where it has no place.
    """

    path: Path
    sop_class: str
    modality: str
    series_uid: str
    frame_uid: str
    referenced_series: tuple[str, ...] = ()
    referenced_frames: tuple[str, ...] = ()
    instance_number: int | None = None
    place: tuple[float, ...] | None = None

    @property
    def is_annotation(self) -> bool:
        """Whether it holds contours or segments."""
        return self.sop_class in (RTSTRUCT, SEGMENTATION)

    @property
    def is_slice(self) -> bool:
        """Whether it is one slice of an image."""
        return self.place is not None and not self.is_annotation


def load_pydicom() -> ModuleType:
    """Import pydicom.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise UsageError(
            "to read DICOM objects needs pydicom, which is not installed. Install it: pip install pydicom."
        ) from None
    warnings.filterwarnings("ignore", module=r"pydicom\b")  # they quote odd values, names of patients too
    return pydicom


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what pydicom raises over a damaged attribute, when it is read or used, into one error without its text."""
    try:
        yield
    except (ArithmeticError, AttributeError, EOFError, LookupError, TypeError, ValueError, struct.error) as error:
        fault = f"an attribute is missing or cannot be ({type(error).__name__})"
        raise ScanFileError(f"{display_name(path)} is damaged: {fault}. Copy it again, or export it again.") from error
    except (NotImplementedError, OSError) as error:
        raise ScanFileError(f"{display_name(path)} cannot be read as DICOM. Copy it again.") from error


def read_object(path: Path, *, only: Sequence[str] | None = None) -> Any:
    """Read the attributes of a file as a pydicom data set; use it inside `readable`.

    Args:
        path: A DICOM file.
        only: The keywords of the attributes to keep; None reads all, the pixels too.

    Raises:
        ScanFileError: The file is damaged.
        UsageError: pydicom is not installed.
    """
    pydicom = load_pydicom()
    check_dicom_file(path, has_picture=False)
    with readable(path):
        return pydicom.dcmread(
            path, stop_before_pixels=only is not None, specific_tags=None if only is None else list(only)
        )


def read_header(path: Path) -> DicomHeader:
    """Read what a file is, and what it refers to.

    Raises:
        ScanFileError: The file is damaged.
        UsageError: pydicom is not installed.
    """
    content = read_object(path, only=(*HEADER, *PLACE, *REFERENCES))
    with readable(path):
        number = content.get("InstanceNumber")
        return DicomHeader(
            path=path,
            sop_class=str(content.get("SOPClassUID", "")),
            modality=str(content.get("Modality", "")).strip().lower(),
            series_uid=str(content.get("SeriesInstanceUID", "")),
            frame_uid=str(content.get("FrameOfReferenceUID", "")),
            referenced_series=tuple(dict.fromkeys(_referenced_series(content))),
            referenced_frames=tuple(dict.fromkeys(_referenced_frames(content))),
            instance_number=None if number is None else int(number),
            place=_place(content),
        )


def sort_slices(headers: Sequence[DicomHeader]) -> list[DicomHeader]:
    """Sort the slices of a volume by their place along the normal of the first one, as `read_series` does.

    Raises:
        ScanFileError: One has no place.
    """
    for header in headers:
        if header.place is None:
            raise ScanFileError(f"{display_name(header.path)} does not say where its slice lies. Export it again.")
    turn = np.array(headers[0].place)[3:]
    normal = np.cross(turn[:3], turn[3:])
    return sorted(headers, key=lambda header: (float(np.dot(np.array(header.place)[:3], normal)), header.path.name))


def _place(content: Any) -> tuple[float, ...] | None:
    if not all(content.get(keyword) for keyword in PLACE):
        return None
    numbers = tuple(float(value) for keyword in PLACE for value in content[keyword].value)
    if len(numbers) != 9 or not np.isfinite(numbers).all():
        raise ValueError("a position has three numbers, a direction six")
    return numbers


def _referenced_series(content: Any) -> Iterator[str]:
    """Return the series that a SEG refers to in its own way, and an RTSTRUCT below frame and study."""
    for series in content.get("ReferencedSeriesSequence") or ():
        yield str(series.SeriesInstanceUID)
    for frame in content.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                yield str(series.SeriesInstanceUID)


def _referenced_frames(content: Any) -> Iterator[str]:
    for frame in content.get("ReferencedFrameOfReferenceSequence") or ():
        yield str(frame.get("FrameOfReferenceUID", ""))
    if str(content.get("SOPClassUID", "")) == SEGMENTATION:
        yield str(content.get("FrameOfReferenceUID", ""))
