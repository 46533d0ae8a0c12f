"""Writes a label map as a DICOM segmentation of its series; needs highdicom (the extra `dicom`).

Owns: `write_dicom_seg`, and the only use of highdicom and pydicom.

The file names the patient and the study of its series, as the standard requires: it is as anonymous as the series.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from autoseg import __version__
from autoseg.errors import ScanFileError, UsageError, printable
from autoseg.export.colors import organ_color
from autoseg.io.byte_stream import display_name
from autoseg.system.atomic_files import atomic_path

LABEL_LETTERS = 64  # that DICOM allows a segment's name
SIDES = ("left", "right")
SERIES_NUMBER = 900  # where no series of a scanner is


def load_highdicom() -> ModuleType:
    """Import highdicom, which takes a second.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import highdicom
    except ImportError:
        raise UsageError(
            "DICOM segmentations need highdicom, which is not installed. Install it: pip install highdicom pydicom."
        ) from None
    warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\b")  # they quote odd values, names of patients too
    return highdicom


def write_dicom_seg(
    path: Path, labels_zyx: np.ndarray, *, slices: Sequence[Path], slice_mm: float, names: Mapping[int, str]
) -> bool:
    """Write a label map with one binary segment for each organ that is present, atomically.

    Args:
        path: The file, which ends in `.dcm`.
        labels_zyx: uint8 or uint16; without organs nothing is written, since DICOM has no empty segmentations.
        slices: The files of the series, one per plane of the label map, in its order.
        slice_mm: The distance between planes, for files without a slice thickness.
        names: The names by label value.

    Returns:
        Whether the file was written.

    Raises:
        UsageError: highdicom is not installed.
        ScanFileError: The series lacks attributes that a segmentation must repeat.
        OSError: The file cannot be written.
    """
    highdicom = load_highdicom()
    import pydicom

    present = [value for value in sorted(names) if (labels_zyx == value).any()]
    if not present:
        return False
    numbers = np.zeros(int(labels_zyx.max()) + 1, np.uint8 if len(present) <= 255 else np.uint16)
    numbers[present] = np.arange(1, len(present) + 1)
    colors = {value: organ_color(number) for number, value in enumerate(sorted(names))}
    try:
        sources = [pydicom.dcmread(one, stop_before_pixels=True) for one in slices]
        for source in sources:
            if source.get("SliceThickness") is None:
                source.SliceThickness = f"{slice_mm:.6g}"
        segmentation = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=numbers[labels_zyx],
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _describe(highdicom, number, names[value], color=colors[value])
                for number, value in enumerate(present, start=1)
            ],
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER,
            series_description="autoseg",
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="autoseg",
            manufacturer_model_name="autoseg",
            software_versions=__version__,
            device_serial_number="none",
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ScanFileError(
            f"{display_name(slices[0].parent)}: no DICOM segmentation can refer to this series: "
            f"{_reason(error):.200}. Export the series again with all of its attributes."
        ) from error
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)
    return True


def _reason(error: Exception) -> str:
    """Return the reason from highdicom's message without quoted values, which may be those of the patient."""
    text = printable(str(error)).rstrip(".")
    return text if isinstance(error, AttributeError) else re.sub(r"'[^']*'|\"[^\"]*\"", "...", text)


def _describe(highdicom: ModuleType, number: int, name: str, *, color: Sequence[float]) -> Any:
    """Describe a segment: name, SNOMED code, color, and that an algorithm made it."""
    from pydicom.sr.codedict import codes

    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=printable(name).replace("\\", "/")[:LABEL_LETTERS],  # a backslash parts values
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=_find_code(name),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="autoseg", version=__version__, family=codes.cid7162.ArtificialIntelligence
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*(round(255 * part) for part in color)),
    )


def _find_code(name: str) -> Any:
    """Find an organ's SNOMED code by its English name without its side; "anatomical structure" if there is none."""
    from pydicom.sr.codedict import codes

    words = [word for word in name.replace("_", " ").lower().split() if word not in SIDES]
    return getattr(codes.SCT, "".join(map(str.capitalize, words)), codes.SCT.AnatomicalStructure)
