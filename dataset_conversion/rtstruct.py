"""The structures of an RTSTRUCT file: names and contours, in millimeters.

Owns: `read_structures` and `Structure`.
Does not own: the file's bytes and what it refers to (`dicom_objects.py`), masks (`contour_masks.py`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import ScanFileError
from autoseg.io.byte_stream import display_name
from dataset_conversion.dicom_objects import read_object, readable

CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}  # what bounds an area; points and open lines do not
STRUCTURES = ("StructureSetROISequence", "ROIContourSequence")


@dataclass(frozen=True)
class Structure:
    """One region of interest.

    Attributes:
        name: As the file has it, without spaces at its ends.
        contours_mm: Closed contours, each (points, 3) in LPS; empty where the structure was named but not drawn.
        left_out: How many contours bound no area, by their kind.
    """

    name: str
    contours_mm: tuple[np.ndarray, ...]
    left_out: Counter[str] = field(default_factory=Counter)


def read_structures(path: Path) -> tuple[Structure, ...]:
    """Read all structures of a file, in its order.

    Raises:
        ScanFileError: The file is damaged, or holds two structures of one number.
        UsageError: pydicom is not installed.
    """
    content = read_object(path, only=STRUCTURES)
    with readable(path):
        drawn = {int(one.ReferencedROINumber): one for one in content.get("ROIContourSequence") or ()}
        named = [
            (int(one.ROINumber), str(one.get("ROIName", "")).strip())
            for one in content.get("StructureSetROISequence") or ()
        ]
        if len({number for number, _ in named}) < len(named):
            raise ScanFileError(f"{display_name(path)} holds two structures of one number. Export it again.")
        return tuple(_read_structure(name, drawn.get(number)) for number, name in named)


def read_names(path: Path) -> tuple[str, ...]:
    """Read the names of the structures that are drawn.

    Raises:
        ScanFileError: The file is damaged.
        UsageError: pydicom is not installed.
    """
    return tuple(structure.name for structure in read_structures(path) if structure.contours_mm)


def _read_structure(name: str, drawn: Any) -> Structure:
    contours: list[np.ndarray] = []
    left_out: Counter[str] = Counter()
    for contour in (drawn.get("ContourSequence") if drawn is not None else None) or ():
        kind = str(contour.get("ContourGeometricType", ""))
        if kind in CLOSED:
            contours.append(_points(contour))
        else:
            left_out[kind if kind.isidentifier() else "unknown"] += 1
    return Structure(name, tuple(contours), left_out)


def _points(contour: Any) -> np.ndarray:
    """Read a contour's points; from its text, since pydicom's own numbers take fifty times its memory."""
    value: Any = contour.get_item("ContourData").value
    words: Sequence[Any] = value.decode("ascii").split("\\") if isinstance(value, bytes) else value
    points = np.array([float(word) for word in words]).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise ValueError("a contour has a point that is nowhere")
    return points
