"""Checks NIfTI headers before any voxel is read, and writes headers that repeat a grid bit for bit.

Owns: `parse_header` (bytes to `StoredImage`) and its inverse for outputs, `encode_header`; label names in a header.
Does not own: the grid (`nifti_geometry.py`), files and voxels (`image.py`).

A slope of 0, or one that is not finite, means that values are not scaled; the intercept is then ignored as well.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from autoseg.errors import ScanFileError
from autoseg.io.geometry import ImageGeometry
from autoseg.io.nifti_geometry import read_geometry
from autoseg.system.atomic_files import parse_json

HEADER_BYTES = 540  # of NIfTI-2, the larger one
MAX_IMAGE_BYTES = 8 << 30  # unpacked; a CT of 512 x 512 x 3000 voxels in int16 has 1.5 GiB
COMMENT_CODE = 6  # NIfTI extension of plain text
FLOAT128_CODE = 1536


@dataclass(frozen=True)
class StoredImage:
    """How the voxels are stored in a file.

    Attributes:
        geometry: The grid of one volume.
        num_volumes: The number of volumes, one after the other.
        dtype: The type of a stored voxel, with its byte order.
        data_offset: The position of the first voxel, in decompressed bytes.
        slope: The factor of stored values; None where they are not scaled.
        intercept: The value that is added afterwards.
        warnings: What is unusual about the header, and how it was read.
        packing: The compression of voxels after an uncompressed header, as zlib's wbits; None without one.
    """

    geometry: ImageGeometry
    num_volumes: int
    dtype: np.dtype
    data_offset: int
    slope: float | None
    intercept: float
    warnings: tuple[str, ...]
    packing: int | None = None

    @property
    def num_voxels(self) -> int:
        """Return the number of voxels of all volumes."""
        return self.num_volumes * math.prod(self.geometry.shape_zyx)


def parse_header(head: bytes, *, name: str) -> StoredImage:
    """Check the first bytes of a decompressed file, and return how its voxels are stored.

    Args:
        head: At least the first 540 bytes, or the whole file where that is shorter.
        name: The name of the file for messages.

    Raises:
        ScanFileError: The file is not a single-file NIfTI image, or the header is impossible.
    """
    header = _open_header(head, name)
    warnings: list[str] = []
    dims = _checked_dims(header, name)
    dtype = _checked_dtype(header, name)
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and offset == int(offset) and offset >= header.single_vox_offset):
        raise ScanFileError(
            f"{name}: vox_offset is {offset:g}; expected a whole number of at least {header.single_vox_offset}. "
            f"The header is damaged; export the file again."
        )
    if math.prod(dims) * dtype.itemsize > MAX_IMAGE_BYTES:
        raise ScanFileError(
            f"{name}: the header claims {' x '.join(map(str, dims))} voxels of {dtype}, over the limit of "
            f"{MAX_IMAGE_BYTES >> 30} GiB. Crop or resample the scan, or repair its header."
        )
    geometry = read_geometry(header, dims, name=name, warnings=warnings)
    slope, intercept = _scaling(header, warnings)
    return StoredImage(
        geometry=geometry,
        num_volumes=math.prod(dims[3:]),
        dtype=dtype,
        data_offset=int(offset),
        slope=slope,
        intercept=intercept,
        warnings=tuple(warnings),
    )


def encode_header(geometry: ImageGeometry, *, dtype: np.dtype, comment: str = "") -> bytes:
    """Return all bytes before the voxels of an output: a new header and perhaps a text extension.

    Only the grid is copied from the input's header, bit for bit, and no text.
    """
    header = _open_header(geometry.header, "stored header") if geometry.header else _header_for(geometry)
    dims = [int(size) for size in header["dim"]]
    if math.prod(dims[1 : dims[0] + 1]) != math.prod(geometry.shape_zyx):  # one volume out of several
        header["dim"] = [3, *reversed(geometry.shape_zyx), 1, 1, 1, 1]
    header.set_data_dtype(dtype)
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    extension = b""
    if comment:
        text = comment.encode("utf-8")
        size = -(-(len(text) + 8) // 16) * 16  # the standard wants multiples of 16
        extension = np.array([size, COMMENT_CODE], dtype="<i4").tobytes() + text.ljust(size - 8, b"\0")
    header["vox_offset"] = header.single_vox_offset + len(extension)
    return header.binaryblock + bytes([int(bool(extension)), 0, 0, 0]) + extension


def encode_names(names: Mapping[int, str]) -> str:
    """Return the text of the extension with the names of label values."""
    return json.dumps({"labels": {str(value): str(names[value]) for value in sorted(names)}}, ensure_ascii=False)


def decode_names(before_voxels: bytes) -> dict[int, str]:
    """Return the names that `encode_names` wrote into the bytes before the voxels; empty where there are none."""
    position = int(np.frombuffer(before_voxels[:4], "<i4")[0]) + 4 if len(before_voxels) >= 352 else len(before_voxels)
    while position + 8 <= len(before_voxels):
        size, code = (int(value) for value in np.frombuffer(before_voxels[position : position + 8], "<i4"))
        if size < 8:
            break
        if code == COMMENT_CODE:
            try:
                labels = parse_json(before_voxels[position + 8 : position + size].rstrip(b"\0"))["labels"]
                return {int(value): str(text) for value, text in labels.items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                pass  # another program's comment
        position += size
    return {}


def _open_header(head: bytes, name: str) -> Any:
    """Return nibabel's header object for NIfTI-1 or NIfTI-2 in either byte order."""
    for kind, size in ((nib.Nifti1Header, 348), (nib.Nifti2Header, 540)):
        for order in ("<", ">"):
            if len(head) >= 4 and int(np.frombuffer(head[:4], f"{order}i4")[0]) == size:
                return _check_magic(kind, head, size=size, order=order, name=name)
    raise ScanFileError(f"{name} is not a NIfTI file: it does not begin with a NIfTI header. Convert it to .nii.gz.")


def _check_magic(kind: Any, head: bytes, *, size: int, order: str, name: str) -> Any:
    if len(head) < size:
        raise ScanFileError(f"{name} ends inside its header, after {len(head)} bytes. Copy or download it again.")
    header = kind(head[:size], endianness=order, check=False)
    magic = bytes(header["magic"].item())
    if magic[:3] == kind.single_magic[:3]:
        return header
    if magic[:3] == kind.pair_magic[:3]:
        raise ScanFileError(f"{name} is the header of an .hdr/.img pair. Convert the pair to one .nii.gz file.")
    if not magic.strip(b"\0"):
        raise ScanFileError(
            f"{name} is an ANALYZE 7.5 file, which does not say left from right. Convert it to .nii.gz."
        )
    raise ScanFileError(
        f"{name}: the header's magic is {magic!r}; expected {kind.single_magic!r}. The file is damaged."
    )


def _checked_dims(header: Any, name: str) -> tuple[int, ...]:
    """Return the sizes (x, y, z, volumes...), at least three, all positive."""
    dim = [int(size) for size in header["dim"]]
    if not 2 <= dim[0] <= 7:
        raise ScanFileError(f"{name}: the header claims {dim[0]} dimensions; expected 2 to 4. Repair the header.")
    sizes = dim[1 : dim[0] + 1]
    if min(sizes) < 1:
        raise ScanFileError(f"{name}: the header's sizes are {sizes}; expected at least 1 each. Repair the header.")
    if math.prod(sizes[4:]) > 1:
        raise ScanFileError(
            f"{name} holds {math.prod(sizes[4:])} values in each voxel (sizes {sizes}); expected one. "
            f"Save each component as a file of its own."
        )
    return (*sizes[:4], *([1] * (3 - len(sizes))))


def _checked_dtype(header: Any, name: str) -> np.dtype:
    code = int(header["datatype"])
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):  # nibabel raises the second for codes that it does not know
        dtype = None
    if dtype is None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        what = {128: "RGB colors", 2304: "RGBA colors", 1: "single bits"}.get(code, f"type {code}")
        what = "complex numbers" if dtype is not None and dtype.kind == "c" else what
        what = "floats of 128 bits, which differ from machine to machine," if code == FLOAT128_CODE else what
        raise ScanFileError(
            f"{name} stores {what} in its voxels; expected grey values. Convert it to one number a voxel."
        )
    if int(header["bitpix"]) != dtype.itemsize * 8:
        raise ScanFileError(
            f"{name}: the header gives {int(header['bitpix'])} bits a voxel, but its datatype {dtype} has "
            f"{dtype.itemsize * 8}. The header is damaged; export the file again."
        )
    return dtype


def _scaling(header: Any, warnings: list[str]) -> tuple[float | None, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        if math.isfinite(intercept) and intercept != 0:
            warnings.append(f"scl_inter is {intercept:g} without a scl_slope; values are taken as stored.")
        return None, 0.0
    if not math.isfinite(intercept):
        warnings.append(f"scl_inter is {intercept}; 0 is taken instead.")
        intercept = 0.0
    return (None, 0.0) if slope == 1 and intercept == 0 else (slope, intercept)


def _header_for(geometry: ImageGeometry) -> Any:
    """Make a header for a grid that does not come from a file."""
    kind = nib.Nifti1Header if max(geometry.shape_zyx) < 2**15 else nib.Nifti2Header
    header = kind()
    header.set_data_shape(geometry.shape_zyx[::-1])
    header.set_zooms(geometry.spacing_zyx_mm[::-1])
    header.set_sform(geometry.affine_array, code=1)
    header.set_qform(geometry.affine_array, code=1)
    header.set_xyzt_units("mm")
    header["magic"] = header.single_magic
    return header
