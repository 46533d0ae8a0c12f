"""Reads and writes scan files; no other module opens them.

Owns: `read_scan`, `read_labels`, `read_header`, `write_label_map`, `write_scan`, names of scan files.
Does not own: the raw bytes (`byte_stream.py`), what the header (`nifti_header.py`, `nrrd.py`) and the values
(`voxels.py`) mean, checks of one file against another (`fingerprint/fingerprint.py`).

A file is read completely and verified to its last byte, or refused with a `ScanFileError` that names the file, the
fault and the remedy. An output repeats the input's grid bit for bit, but no text of its header.
"""

import gzip
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from autoseg.errors import GeometryError, ScanFileError, UsageError
from autoseg.io.byte_stream import ScanStream, display_name, refuse_other_kinds, refuse_text
from autoseg.io.geometry import ImageGeometry
from autoseg.io.nifti_header import (
    HEADER_BYTES,
    StoredImage,
    decode_names,
    encode_header,
    encode_names,
    parse_header,
)
from autoseg.io.nrrd import TEXT_HEADER_BYTES, parse_mha_header, parse_nrrd_header
from autoseg.io.voxels import replace_not_finite, round_labels, scale_values
from autoseg.system.atomic_files import atomic_path

NIFTI_ENDINGS = (".nii.gz", ".nii")  # of what is written
SCAN_ENDINGS = (*NIFTI_ENDINGS, ".nrrd", ".mha")
GZIP_LEVEL = 2  # label maps: as small as at 6 within a few per cent, three times as fast
MAX_EXTENSION_BYTES = 1 << 20
_TEXT_HEADERS = {b"nrrd000": parse_nrrd_header, b"objecttype": parse_mha_header, b"ndims": parse_mha_header}


@dataclass(frozen=True)
class Scan:
    """The voxels of one volume and their grid.

    Attributes:
        array_zyx: The voxels in the stored integer type, or float32 where the file has floats or scales its values.
        geometry: The grid of the file.
        warnings: What is unusual about the file, and how it was read.
    """

    array_zyx: np.ndarray
    geometry: ImageGeometry
    warnings: tuple[str, ...] = ()


def is_scan_name(name: str) -> bool:
    """Return whether a file name is that of a scan; hidden files, such as macOS's "._case.nii.gz", are not scans."""
    return not name.startswith(".") and name.lower().endswith(SCAN_ENDINGS)


def scan_stem(path: Path | str) -> str:
    """Return the file name without its scan ending: "case.nii.gz" gives "case"."""
    name = Path(path).name
    for ending in SCAN_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def read_header(path: Path) -> ImageGeometry:
    """Read only the grid, from the first bytes of the file.

    Raises:
        ScanFileError: The file or its header cannot be used; the voxels are not looked at.
    """
    with ScanStream(path) as stream:
        return _read_header(stream)[0].geometry


def count_volumes(path: Path) -> int:
    """Return the number of volumes of a file, which is 1 except for 4D images."""
    with ScanStream(path) as stream:
        return _read_header(stream)[0].num_volumes


def bytes_in_memory(path: Path) -> int:
    """Return the bytes that the voxels of a scan will take in memory, according to its header.

    Raises:
        ScanFileError: The file or its header cannot be used.
    """
    with ScanStream(path) as stream:
        stored, _ = _read_header(stream)
    is_float = stored.slope is not None or stored.dtype.kind == "f"
    return stored.num_voxels * (4 if is_float else stored.dtype.itemsize)


def read_scan(path: Path) -> Scan:
    """Read a file with one volume.

    Args:
        path: A NIfTI, NRRD or MetaImage file, recognized by its first bytes.

    Raises:
        ScanFileError: The file is damaged, holds several volumes, or over 1 % of its voxels are not finite.
    """
    scans = read_all_volumes(path)
    _require_one_volume(len(scans), display_name(path))
    return scans[0]


def read_all_volumes(path: Path) -> tuple[Scan, ...]:
    """Read every volume of a file, opened once: the channels of a 4D image.

    Raises:
        ScanFileError: As `read_scan`.
    """
    volumes, stored, warnings = _read_volumes(path)
    scans = []
    for volume in volumes:
        array, more = replace_not_finite(volume, name=display_name(path), in_place=True)
        scans.append(Scan(array_zyx=array, geometry=stored.geometry, warnings=(*warnings, *more)))
    return tuple(scans)


def read_labels(path: Path) -> Scan:
    """Read a label map as uint8, uint16 or int32, whichever is the smallest that fits.

    Raises:
        ScanFileError: As `read_scan`; or a value is not finite, or differs from an integer by more than 0.001.
    """
    name = display_name(path)
    volumes, stored, warnings = _read_volumes(path)
    _require_one_volume(len(volumes), name)
    array = volumes[0]
    del volumes
    if array.dtype.kind == "f":
        array, rounding = round_labels(array, name=name)
        warnings = (*warnings, *rounding)
    low, high = int(array.min()), int(array.max())
    for dtype in (np.uint8, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return Scan(array_zyx=array.astype(dtype, copy=False), geometry=stored.geometry, warnings=warnings)
    raise ScanFileError(f"{name} holds label values from {low} to {high}; expected 0 to 65535. Renumber the labels.")


def read_label_names(path: Path) -> dict[int, str]:
    """Read the names that `write_label_map` put into a file; empty where there are none."""
    with ScanStream(path) as stream:
        stored, head = _read_header(stream)
        more = bytes(stream.read(min(max(stored.data_offset - len(head), 0), MAX_EXTENSION_BYTES)))
        return decode_names((head + more)[: stored.data_offset])


def write_label_map(path: Path, labels_zyx: np.ndarray, *, geometry: ImageGeometry, names: Mapping[int, str]) -> None:
    """Write a label map on exactly the grid of `geometry`, atomically, the same bytes for the same content.

    Args:
        path: Ends in `.nii.gz` or `.nii`.
        labels_zyx: Integers 0 to 65535 (or booleans); stored as uint8 where all are below 256, else as uint16.
        geometry: The grid; with its `header` bytes, every program sees the input's grid to the last bit.
        names: The name of each label value, written into a text extension as JSON.

    Raises:
        GeometryError: The array has another shape than the grid.
        UsageError: Values are not integers or out of range.
        ScanFileError: The file cannot be written.
    """
    low, high = int(labels_zyx.min(initial=0)), int(labels_zyx.max(initial=0))
    if labels_zyx.dtype.kind not in "iub" or low < 0 or high > 65535:
        raise UsageError(f"a label map of {labels_zyx.dtype} from {low} to {high}; expected integers of 0 to 65535.")
    dtype = np.dtype(np.uint8 if high <= 255 else np.uint16)
    _write(path, labels_zyx, geometry=geometry, dtype=dtype, comment=encode_names(names))


def write_scan(path: Path, array_zyx: np.ndarray, *, geometry: ImageGeometry) -> None:
    """Write an image atomically: integers as int16 or, where they do not fit, int32; anything else as float32.

    Raises:
        GeometryError: The array has another shape than the grid.
        ScanFileError: The file cannot be written.
    """
    dtype: np.dtype = np.dtype(np.float32)
    if array_zyx.dtype.kind in "iub":
        fits = array_zyx.min(initial=0) >= -(2**15) and array_zyx.max(initial=0) < 2**15
        dtype = np.dtype(np.int16 if fits else np.int32)
    _write(path, array_zyx, geometry=geometry, dtype=dtype, comment="")


def _read_volumes(path: Path) -> tuple[np.ndarray, StoredImage, tuple[str, ...]]:
    """Read and verify a whole file; the array is (volumes, z, y, x), in native byte order and scaled."""
    with ScanStream(path) as stream:
        stored, head = _read_header(stream)
        num_bytes = stored.num_voxels * stored.dtype.itemsize
        if stored.data_offset + num_bytes > stream.most_bytes:
            fraction = max(stream.most_bytes - stored.data_offset, 0) / num_bytes
            is_packed = stream.is_gzip or stored.packing is not None
            raise ScanFileError(_cut_off(stream.name, stored, fraction, is_bound=is_packed))
        stream.skip(max(stored.data_offset - len(head), 0))
        buffer = stream.read(num_bytes, begin=head[stored.data_offset :][:num_bytes])
        if len(buffer) < num_bytes:
            raise ScanFileError(_cut_off(stream.name, stored, len(buffer) / num_bytes))
        extra = max(len(head) - stored.data_offset - num_bytes, 0) + stream.finish()
    warnings = stored.warnings
    if extra:
        warnings = (*warnings, "the file continues after its last voxel; the rest is ignored.")
    array = np.frombuffer(buffer, stored.dtype).reshape(stored.num_volumes, *stored.geometry.shape_zyx)
    return scale_values(array, slope=stored.slope, intercept=stored.intercept), stored, warnings


def _read_header(stream: ScanStream) -> tuple[StoredImage, bytes]:
    """Read the header of any format, and return it with the bytes that were read."""
    with np.errstate(all="ignore"):  # a damaged header holds numbers of any size; what comes of them is checked
        return _parse_any_header(stream)


def _parse_any_header(stream: ScanStream) -> tuple[StoredImage, bytes]:
    first = stream.peek(TEXT_HEADER_BYTES)
    for magic, parse in _TEXT_HEADERS.items():
        if first[: len(magic)].lower() == magic:
            stored = parse(first, name=stream.name)
            head = bytes(stream.read(stored.data_offset))
            if stored.packing is not None:
                stream.begin_packed(stored.packing)
            return stored, head
    head = bytes(stream.read(HEADER_BYTES))
    if not head:
        raise ScanFileError(f"{stream.name} is packed, but holds nothing. Copy or download it again.")
    refuse_other_kinds(head, name=stream.name, is_unpacked=stream.is_gzip)
    refuse_text(head, name=stream.name)
    return parse_header(head, name=stream.name), head


def _cut_off(name: str, stored: StoredImage, fraction: float, *, is_bound: bool = False) -> str:
    shape = " x ".join(str(size) for size in reversed(stored.geometry.shape_zyx))
    percent = f"{'at most ' if is_bound else ''}{math.floor(fraction * 100)} %"
    return f"{name} ends after {percent} of the voxels ({shape} of {stored.dtype}). Copy or download the file again."


def _require_one_volume(num_volumes: int, name: str) -> None:
    if num_volumes != 1:
        raise ScanFileError(
            f"{name} is a 4D file with {num_volumes} volumes; expected one. Save each as a file of its own."
        )


def _write(path: Path, array_zyx: np.ndarray, *, geometry: ImageGeometry, dtype: np.dtype, comment: str) -> None:
    if array_zyx.shape != geometry.shape_zyx:
        raise GeometryError(
            f"an array of shape_zyx {array_zyx.shape} cannot go onto a grid of {geometry.shape_zyx}. "
            "Give both of one shape."
        )
    if not Path(path).name.lower().endswith(NIFTI_ENDINGS):
        raise UsageError(f"{display_name(path)} is not a name for a scan; expected it to end in .nii.gz or .nii.")
    before = encode_header(geometry, dtype=dtype, comment=comment)
    try:
        with atomic_path(path) as temporary, _output_stream(temporary) as stream:
            stream.write(before)
            for plane in array_zyx:
                stream.write(np.ascontiguousarray(plane, dtype=dtype.newbyteorder("<")).tobytes())
    except OSError as error:
        raise ScanFileError(
            f"{display_name(path)} cannot be written: {error.strerror or error}. Free some space or check the folder."
        ) from error


@contextmanager
def _output_stream(path: Path) -> Iterator[BinaryIO]:
    """Open for writing, with gzip if the name says so; no name or time is stored, so equal content is equal bytes."""
    with path.open("wb") as file:
        if not path.name.lower().endswith(".gz"):
            yield file
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=GZIP_LEVEL, mtime=0) as packed:
            yield packed  # type: ignore[misc]
