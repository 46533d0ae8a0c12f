"""What a NIfTI header says, checked before any voxel is read, and fresh headers that repeat a grid bit for bit.

Owns: `parse_header` (bytes to `StoredImage`) and its inverse for outputs, `encode_header`; the rules for odd headers.
Does not own: files and voxels (`image.py`).

Rules for what readers of NIfTI treat differently:
    affine      the sform where it has a code, else the qform, else nibabel's default (x runs to the left, origin in the
                center) with a warning. An sform and a qform that put a corner over half a voxel apart are an error,
                over a tenth a warning.
    units       metres and micrometres become millimeters; no unit means millimeters.
    scaling     a slope of 0 or not finite means none, and then the intercept counts for nothing either.
    sheared     axes are accepted while the nearest right-angled grid has every corner within half a voxel.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from autoseg.errors import GeometryError, ScanFileError
from autoseg.io.geometry import SAME_PLACE_VOXELS, ImageGeometry, corner_distance_mm
from autoseg.system.atomic_files import parse_json

HEADER_BYTES = 540  # of NIfTI-2, the larger one
MAX_IMAGE_BYTES = 8 << 30  # unpacked; a CT of 512 x 512 x 3000 voxels in int16 has 1.5 GiB
MIN_SPACING_MM, MAX_SPACING_MM = 1e-4, 1000.0
MAX_ORIGIN_MM = 1e6  # a kilometre from the scanner's center; float32 knows places there to 0.06 mm
CONFLICT_VOXELS = 0.5  # how far a corner may move between sform and qform, or by shear
COMMENT_CODE = 6  # NIfTI extension of plain text
FLOAT128_CODE = 1536
_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_UNIT_NAMES = {1: "metres", 3: "micrometres"}
_GRID_FIELDS = ("qform_code", "sform_code", "xyzt_units", "dim")
_FIELDS_BY_CODE = {
    "sform_code": ("srow_x", "srow_y", "srow_z"),
    "qform_code": ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
}


@dataclass(frozen=True)
class StoredImage:
    """How the voxels lie in a file.

    Attributes:
        geometry: Grid of one volume.
        num_volumes: Number of volumes, one after the other.
        dtype: Type of a stored voxel, byte order included.
        data_offset: Where the first voxel begins, in unpacked bytes.
        slope: Multiply stored values by this; None where they are meant as stored.
        intercept: Then add this.
        warnings: What was odd and how it was read.
        packing: How voxels are compressed whose header is not, as zlib's wbits; None where they are as they are.
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
        """Number of voxels of all volumes."""
        return self.num_volumes * math.prod(self.geometry.shape_zyx)


def parse_header(head: bytes, *, name: str) -> StoredImage:
    """Check the first bytes of an unpacked file and say how its voxels lie.

    Args:
        head: At least the first 540 bytes, or the whole file where that is shorter.
        name: The file, for messages.

    Raises:
        ScanFileError: Not a single-file NIfTI image, or a header that cannot be true.
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
    geometry = _read_geometry(header, dims, name=name, warnings=warnings)
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
    """Give all bytes that stand before the voxels of an output: a fresh header and perhaps a text extension.

    Only the grid is taken over from the input's header, bit for bit; no text of it is.
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
    """Give the text of the extension that carries the names of label values."""
    return json.dumps({"labels": {str(value): str(names[value]) for value in sorted(names)}}, ensure_ascii=False)


def decode_names(before_voxels: bytes) -> dict[int, str]:
    """Find the names that `encode_names` wrote among the bytes before the voxels; empty where there are none."""
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
    """Give nibabel's header object for NIfTI-1 or NIfTI-2 in either byte order."""
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
    """Give the sizes (x, y, z, volumes...), at least three, all positive."""
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


def _read_geometry(header: Any, dims: tuple[int, ...], *, name: str, warnings: list[str]) -> ImageGeometry:
    shape_zyx = dims[2::-1]
    kept = _geometry_fields(header).binaryblock
    _check_spacing(header, dims, name=name, warnings=warnings)
    unit_mm = _unit_mm(header, warnings)
    affines = _coded_affines(header, name)
    grids: dict[str, ImageGeometry] = {}
    for source, affine in affines.items():
        scaled = np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ _with_third_axis(affine, dims)
        try:
            grids[source] = ImageGeometry.from_affine(shape_zyx, scaled, header=kept)
        except GeometryError as error:
            raise ScanFileError(f"{name}: in its {source}, {error} Export the file again.") from error
        check_extent(grids[source], name=name)
    if len(grids) == 2:
        _check_conflict(grids["sform"], grids["qform"], name=name, warnings=warnings)
    if "none" in grids:
        warnings.append(
            "the header has neither sform nor qform; x is taken to run from right to left (as nibabel does)."
        )
    geometry = next(iter(grids.values()))
    spacing = geometry.spacing_zyx_mm
    if "sform" in grids and "qform" not in grids:
        sizes = tuple(float(size) * unit_mm for size in header["pixdim"][3:0:-1])
        if not np.allclose(sizes, spacing, rtol=0.01):
            warnings.append(f"pixdim gives spacing_zyx_mm {sizes}, the sform {spacing}; the sform is believed.")
    check_shear(geometry, name=name, warnings=warnings)
    return geometry


def _check_conflict(sform: ImageGeometry, qform: ImageGeometry, *, name: str, warnings: list[str]) -> None:
    """Refuse two grids that lie apart, since programs differ in which they believe; note what is less."""
    distance = corner_distance_mm(sform, qform) / min(sform.spacing_zyx_mm)
    if not distance <= CONFLICT_VOXELS:
        raise ScanFileError(
            f"{name}: its sform and qform put the same corner {distance:.3g} voxels apart; at most {CONFLICT_VOXELS} "
            f"is accepted, since programs differ in which they believe. Set both to the true one."
        )
    if distance > SAME_PLACE_VOXELS:
        warnings.append(f"sform and qform lie {distance:.2g} voxels apart; the sform is believed.")


def _check_spacing(header: Any, dims: tuple[int, ...], *, name: str, warnings: list[str]) -> None:
    """Refuse spacings that are not positive; a missing one across a single slice becomes 1."""
    for axis in (1, 2, 3):
        value = float(header["pixdim"][axis])
        if math.isfinite(value) and value > 0:
            continue
        if axis == 3 and dims[2] == 1:
            header["pixdim"][3] = 1.0
            warnings.append("the only slice has no thickness; 1 is taken.")
            continue
        raise ScanFileError(
            f"{name}: the spacing along {'xyz'[axis - 1]} is {value:g}; expected a positive number. Repair the header."
        )
    header["pixdim"][0] = -1.0 if header["pixdim"][0] < 0 else 1.0  # qfac; 0 means 1 by the standard


def _unit_mm(header: Any, warnings: list[str]) -> float:
    code = int(header["xyzt_units"]) & 7
    if code not in _UNITS_MM:
        warnings.append(f"the unit of length has the unknown code {code}; millimeters are taken.")
    elif code in _UNIT_NAMES:
        warnings.append(f"lengths are given in {_UNIT_NAMES[code]} and are converted to millimeters.")
    return _UNITS_MM.get(code, 1.0)


def _coded_affines(header: Any, name: str) -> dict[str, np.ndarray]:
    """Give the affines that the header declares, the one to believe first."""
    for field in ("sform_code", "qform_code"):
        if not 0 <= int(header[field]) <= 5:
            raise ScanFileError(f"{name}: {field} is {int(header[field])}; expected 0 to 5. The header is damaged.")
    affines = {}
    if int(header["sform_code"]) > 0:
        affines["sform"] = header.get_sform()
    if int(header["qform_code"]) > 0:
        try:
            affines["qform"] = header.get_qform()
        except (HeaderDataError, ValueError) as error:
            raise ScanFileError(f"{name}: its qform is no rotation ({error}). Repair the header.") from error
    return affines or {"none": header.get_base_affine()}


def _with_third_axis(affine: np.ndarray, dims: tuple[int, ...]) -> np.ndarray:
    """Give a single slice an axis at right angles to it where the header has none."""
    third = affine[:3, 2]
    if dims[2] == 1 and not (np.isfinite(third).all() and third.any()):
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine = affine.copy()
        affine[:3, 2] = normal / (np.linalg.norm(normal) or 1.0)
    return affine


def check_extent(geometry: ImageGeometry, *, name: str) -> None:
    """Refuse voxels that no scanner makes, and places where no patient lies.

    Raises:
        ScanFileError: A side is too small or too large, or the first voxel too far away.
    """
    spacing, origin = geometry.spacing_zyx_mm, geometry.origin_xyz_mm
    if not (min(spacing) >= MIN_SPACING_MM and max(spacing) <= MAX_SPACING_MM):
        raise ScanFileError(
            f"{name}: spacing_zyx_mm is {spacing}; expected {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g}. "
            f"Repair the header's spacing or its unit."
        )
    if max(map(abs, origin)) > MAX_ORIGIN_MM:
        raise ScanFileError(
            f"{name}: origin_xyz_mm is {origin}; expected at most {MAX_ORIGIN_MM:g} away from 0. Repair the header."
        )


def check_shear(geometry: ImageGeometry, *, name: str, warnings: list[str]) -> None:
    """Refuse axes so far from right angles that a scan on a right-angled grid would lie elsewhere.

    Raises:
        ScanFileError: A corner would lie over half a voxel away.
    """
    direction = np.array(geometry.direction)
    left, _, right = np.linalg.svd(direction)
    moved = (left @ right - direction) * geometry.spacing_zyx_mm[::-1]  # (3, 3): mm a voxel step, columns x, y, z
    half = (np.array(geometry.shape_zyx[::-1]) - 1) / 2
    signs = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]])  # opposite corners move alike about the center
    distance = np.linalg.norm((signs * half) @ moved.T, axis=1).max() / min(geometry.spacing_zyx_mm)
    if not distance <= CONFLICT_VOXELS:
        raise ScanFileError(
            f"{name}: its axes are not at right angles; the nearest right-angled grid has a corner {distance:.3g} "
            f"voxels away, at most {CONFLICT_VOXELS} is accepted. Resample the scan onto a right-angled grid."
        )
    if distance > 0.01:
        warnings.append(f"the axes are not quite at right angles (a corner is {distance:.2g} voxels off).")


def _geometry_fields(header: Any) -> Any:
    """Copy nothing but the grid into a fresh little-endian header.

    A field that does not count, such as the rows of an sform without a code, may hold anything, also a name.
    """
    fresh = type(header)(endianness="<")
    coded = [field for code, fields in _FIELDS_BY_CODE.items() if header[code] > 0 for field in fields]
    for field in (*_GRID_FIELDS, *coded):
        fresh[field] = header[field]
    num_used = 1 + max(3, int(header["dim"][0]))
    fresh["pixdim"] = header["pixdim"]
    for field in ("dim", "pixdim"):
        unused = fresh[field][num_used:]
        unused[~np.isin(unused, (0, 1))] = 1
    fresh["magic"] = header.single_magic
    return fresh


def _header_for(geometry: ImageGeometry) -> Any:
    """Make a header for a grid that came from no file."""
    kind = nib.Nifti1Header if max(geometry.shape_zyx) < 2**15 else nib.Nifti2Header
    header = kind()
    header.set_data_shape(geometry.shape_zyx[::-1])
    header.set_zooms(geometry.spacing_zyx_mm[::-1])
    header.set_sform(geometry.affine_array, code=1)
    header.set_qform(geometry.affine_array, code=1)
    header.set_xyzt_units("mm")
    header["magic"] = header.single_magic
    return header
