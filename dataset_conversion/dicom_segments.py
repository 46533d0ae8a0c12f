"""The segments of a DICOM segmentation (SEG): names, and masks on a grid of their own.

Owns: `read_segmentation`, `Segmentation`: how frames make a volume, bits of binary and values of fractional ones.
Does not own: the file's bytes (`dicom_objects.py`), bringing masks to an image's grid (`label_grids.py`).

The frames of all segments lie in one file, in any order, each with the number of its segment and its place. Planes that
no frame shows are empty.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import GeometryError, ScanFileError
from autoseg.io.array_input import LPS_TO_RAS
from autoseg.io.byte_stream import display_name
from autoseg.io.geometry import ImageGeometry
from dataset_conversion.dicom_objects import read_object, readable

MOST_PLANES = 10_000
UNEVEN_SHARE = 0.1  # of the distance of planes, by which one may lie off its place
TURNED = 1e-3  # by which direction cosines and millimeters may differ from frame to frame
LPS_TO_RAS_AFFINE = np.diag([*np.diag(LPS_TO_RAS), 1.0])
PLAIN_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")  # little-endian and not compressed


@dataclass(frozen=True)
class Segmentation:
    """What a SEG file holds.

    Attributes:
        geometry: The grid of the masks.
        names: Of each segment, by its number; in the file's order.
        frames: Segment number and plane of each frame, in the file's order.
        pixels: Of all frames, as stored.
        threshold: From this stored value on a pixel belongs to a segment; None where each pixel is one bit.
    """

    geometry: ImageGeometry
    names: dict[int, str]
    frames: tuple[tuple[int, int], ...]
    pixels: bytes
    threshold: float | None

    def mask_of(self, number: int) -> np.ndarray:
        """Make the mask of one segment: bool, zyx; empty where it has no frame."""
        mask = np.zeros(self.geometry.shape_zyx, dtype=bool)
        for index, (segment, plane) in enumerate(self.frames):
            if segment == number:
                mask[plane] |= self._frame(index)
        return mask

    def _frame(self, index: int) -> np.ndarray:
        shape = self.geometry.shape_zyx[1:]
        size = math.prod(shape)
        if self.threshold is not None:
            stored = np.frombuffer(self.pixels, np.uint8, count=size, offset=index * size)
            return stored.reshape(shape) >= self.threshold
        first, last = index * size, (index + 1) * size  # in bits: frames do not begin with a byte
        whole = np.frombuffer(self.pixels, np.uint8, count=-(-last // 8) - first // 8, offset=first // 8)
        bits = np.unpackbits(whole, bitorder="little")[first % 8 :][:size]
        return bits.reshape(shape).astype(bool)


def read_segmentation(path: Path) -> Segmentation:
    """Read a SEG file.

    Raises:
        ScanFileError: The file is damaged, compressed, of a kind that is not known, or its frames make no volume.
        UsageError: pydicom is not installed.
    """
    content = read_object(path)
    name = display_name(path)
    with readable(path):
        threshold = _find_threshold(content, name)
        per_frame = list(content.PerFrameFunctionalGroupsSequence)
        shared = (content.get("SharedFunctionalGroupsSequence") or [{}])[0]
        shape = (int(content.Rows), int(content.Columns))
        pixels = bytes(content.PixelData)
        bits = len(per_frame) * math.prod(shape) * (1 if threshold is None else 8)
        if not per_frame or min(shape) < 1 or len(pixels) < -(-bits // 8):
            raise ScanFileError(
                f"{name}: {len(per_frame)} frames of {shape[1]} x {shape[0]} pixels do not fit into the {len(pixels)} "
                "bytes that it holds. Copy it again, or export it again."
            )
        numbers = [
            int(_group(one, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber) for one in per_frame
        ]
        geometry, planes = _stack(per_frame, shared, shape=shape, name=name)
        return Segmentation(
            geometry=geometry,
            names=_segment_names(content),
            frames=tuple(zip(numbers, planes, strict=True)),
            pixels=pixels,
            threshold=threshold,
        )


def read_names(path: Path) -> tuple[str, ...]:
    """Read the names of the segments alone.

    Raises:
        ScanFileError: The file is damaged.
        UsageError: pydicom is not installed.
    """
    content = read_object(path, only=("SegmentSequence",))
    with readable(path):
        return tuple(_segment_names(content).values())


def _segment_names(content: Any) -> dict[int, str]:
    names = {}
    for segment in content.SegmentSequence:
        number = int(segment.SegmentNumber)
        names[number] = str(segment.get("SegmentLabel", "")).strip() or f"segment {number}"
    return names


def _find_threshold(content: Any, name: str) -> float | None:
    """Tell how a pixel belongs to a segment; refuse what is stored in another way."""
    kind, bits = str(content.SegmentationType), int(content.BitsAllocated)
    if (kind, bits) not in (("BINARY", 1), ("FRACTIONAL", 8)):
        known = "BINARY with 1 bit or FRACTIONAL with 8"
        raise ScanFileError(
            f"{name}: its type is {kind if kind.isalpha() else 'unknown'} with {bits} bits a pixel; expected {known}. "
            "Export the segmentation in such a form."
        )
    if str(content.file_meta.TransferSyntaxUID) not in PLAIN_SYNTAXES:
        raise ScanFileError(f"{name} is compressed. Unpack it, for example with gdcmconv --raw.")
    return None if kind == "BINARY" else int(content.MaximumFractionalValue) / 2


def _group(frame: Any, shared: Any, keyword: str) -> Any:
    """Return a functional group of a frame: its own one, or that of all frames."""
    own = frame.get(keyword) or shared.get(keyword)
    if not own:
        raise AttributeError(keyword)
    return own[0]


def _stack(frames: list[Any], shared: Any, *, shape: tuple[int, int], name: str) -> tuple[ImageGeometry, list[int]]:
    """Find the grid on which all frames lie, and the plane of each.

    Raises:
        ScanFileError: They are turned against each other, or lie at uneven distances.
    """
    turns = [_floats(_group(one, shared, "PlaneOrientationSequence").ImageOrientationPatient, 6) for one in frames]
    places = np.array([_floats(_group(one, shared, "PlanePositionSequence").ImagePositionPatient, 3) for one in frames])
    measures = [_group(one, shared, "PixelMeasuresSequence") for one in frames]
    pixels_mm = np.array([_floats(one.PixelSpacing, 2) for one in measures])  # between rows, between columns
    if np.ptp(turns, axis=0).max() > TURNED or np.ptp(pixels_mm, axis=0).max() > TURNED:
        raise ScanFileError(f"{name}: its frames differ in direction or in the size of pixels. Export it again.")
    along_row, along_column = turns[0][:3], turns[0][3:]
    normal = np.cross(along_row, along_column)
    heights = places @ normal
    step_mm = _find_step(heights, measures[0])
    planes = (heights - heights.min()) / step_mm
    off = np.abs(planes - planes.round()).max()
    first = places[heights.argmin()]
    sideways = places - first - np.outer(heights - heights.min(), normal)
    if off > UNEVEN_SHARE or np.linalg.norm(sideways, axis=1).max() > UNEVEN_SHARE * pixels_mm[0].min():
        raise ScanFileError(f"{name}: its frames do not lie behind each other at one distance. Export it again.")
    num_planes = round(float(planes.max())) + 1
    if num_planes > MOST_PLANES:
        raise ScanFileError(f"{name}: its frames span {num_planes} planes; expected at most {MOST_PLANES}. Check it.")
    affine = np.eye(4)
    affine[:3, :3] = np.stack([along_row * pixels_mm[0, 1], along_column * pixels_mm[0, 0], normal * step_mm], axis=1)
    affine[:3, 3] = first
    try:
        geometry = ImageGeometry.from_affine((num_planes, *shape), LPS_TO_RAS_AFFINE @ affine)
    except GeometryError as error:
        raise ScanFileError(f"{name}: {error}") from error
    return geometry, [round(float(plane)) for plane in planes]


def _find_step(heights: np.ndarray, measures: Any) -> float:
    """Return the distance of planes: as stated, or the smallest that there is, or the thickness of a single plane."""
    stated = measures.get("SpacingBetweenSlices")
    if stated:
        return abs(float(stated)) or 1.0
    steps = np.diff(np.unique(heights))
    steps = steps[steps > TURNED]
    return float(steps.min()) if len(steps) else abs(float(measures.get("SliceThickness") or 1.0)) or 1.0


def _floats(values: Any, count: int) -> np.ndarray:
    numbers = np.array([float(value) for value in values])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError("another count of numbers")
    return numbers
