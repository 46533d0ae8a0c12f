"""Reads the grid of a NIfTI file from its header: units, sform, qform, spacing.

Owns: `read_geometry`, and what is wrong with affines that contradict each other.
Does not own: the other fields of the header (`nifti_header.py`).

Rules for what readers of NIfTI treat differently:
    affine      The sform where it has a code, else the qform, else nibabel's default (x runs to the left, origin in the
                center) with a warning. An sform and a qform that put a corner more than half a voxel apart are an
                error, more than a tenth a warning.
    units       Meters and micrometers become millimeters; no unit means millimeters.
    sheared     Axes are accepted while the nearest right-angled grid has every corner within half a voxel.
"""

import math
from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError

from autoseg.errors import GeometryError, ScanFileError
from autoseg.io.geometry import SAME_PLACE_VOXELS, ImageGeometry, corner_distance_mm
from autoseg.io.grid_checks import CONFLICT_VOXELS, check_extent, check_shear

_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_UNIT_NAMES = {1: "metres", 3: "micrometres"}
_GRID_FIELDS = ("qform_code", "sform_code", "xyzt_units", "dim")
_FIELDS_BY_CODE = {
    "sform_code": ("srow_x", "srow_y", "srow_z"),
    "qform_code": ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
}


def read_geometry(header: Any, dims: tuple[int, ...], *, name: str, warnings: list[str]) -> ImageGeometry:
    """Read the grid of a header.

    Args:
        header: The header, as nibabel reads it.
        dims: The sizes of all axes.
        name: The name of the file for messages.
        warnings: A list to which what is unusual is added.

    Raises:
        ScanFileError: The header describes no grid.
        GeometryError: Its affines contradict each other, or its axes are sheared.
    """
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
            warnings.append(f"pixdim gives spacing_zyx_mm {sizes}, the sform {spacing}; the sform is used.")
    check_shear(geometry, name=name, warnings=warnings)
    return geometry


def _check_conflict(sform: ImageGeometry, qform: ImageGeometry, *, name: str, warnings: list[str]) -> None:
    """Refuse two grids that differ, since programs disagree on which one counts; warn of smaller differences."""
    distance = corner_distance_mm(sform, qform) / min(sform.spacing_zyx_mm)
    if not distance <= CONFLICT_VOXELS:
        raise ScanFileError(
            f"{name}: its sform and qform put the same corner {distance:.3g} voxels apart; at most {CONFLICT_VOXELS} "
            f"is accepted, since programs differ in which they believe. Set both to the true one."
        )
    if distance > SAME_PLACE_VOXELS:
        warnings.append(f"sform and qform lie {distance:.2g} voxels apart; the sform is used.")


def _check_spacing(header: Any, dims: tuple[int, ...], *, name: str, warnings: list[str]) -> None:
    """Refuse spacings that are not positive; the missing spacing of a single slice becomes 1."""
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
    """Return the affines that the header declares, the one that counts first."""
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
            raise ScanFileError(f"{name}: its qform is not a rotation ({error}). Repair the header.") from error
    return affines or {"none": header.get_base_affine()}


def _with_third_axis(affine: np.ndarray, dims: tuple[int, ...]) -> np.ndarray:
    """Add an axis perpendicular to a single slice where the header has none."""
    third = affine[:3, 2]
    if dims[2] == 1 and not (np.isfinite(third).all() and third.any()):
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine = affine.copy()
        affine[:3, 2] = normal / (np.linalg.norm(normal) or 1.0)
    return affine


def _geometry_fields(header: Any) -> Any:
    """Copy only the grid into a new little-endian header.

    Fields without effect, such as the rows of an sform without a code, may contain anything, even a name.
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
