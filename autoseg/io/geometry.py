"""Describes where the voxels of a scan lie in space, and converts between the file's axes and canonical ones.

Owns: `ImageGeometry`, comparison of two grids, `AxisMap`, boxes.
Does not own: files (`image.py`), interpolation (`preprocessing/`).

Vocabulary:
    zyx       order of array axes: z is the last NIfTI axis and the slowest in memory.
    xyz       order of NIfTI indices and of points in space. Affines take and give it, in millimeters, RAS+:
              x grows to the patient's right, y to the front, z to the head.
    canonical the file's voxels with axes permuted and flipped so that index x grows most to the right, y most to the
              front, z most to the head. No voxel value changes.
    corner    the center of a voxel at an end of every axis; a grid has eight corners.
"""

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoseg.errors import GeometryError

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # (start, stop) of each axis, zyx

SPACING_TOLERANCE = 1e-3  # relative; NIfTI stores float32, and writers round spacing to a few digits
MM3_PER_ML = 1000.0
UNNOTICED_MM = 1e-3  # corners nearer than this come from rounding
FLIPPED_REMEDY = "Check with a viewer which one is right and copy its affine to the other."
SAME_PLACE_VOXELS = 0.1  # two grids whose corners are nearer than this share of a voxel are one grid


@dataclass(frozen=True)
class ImageGeometry:
    """The grid of a scan: its size and the position of every voxel.

    Attributes:
        shape_zyx: The number of voxels along each array axis, at least 1.
        affine: 4x4 rows; maps the index (x, y, z) of a voxel to its center in RAS+ millimeters, as in nibabel.
        header: The geometry fields of the file's NIfTI header, so that an output repeats them bit for bit;
            b"" for grids that autoseg made.

    Raises:
        GeometryError: An axis has no voxels, a value is not finite, or the axes do not span space.
    """

    shape_zyx: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    header: bytes = field(default=b"", compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.shape_zyx) != 3 or min(self.shape_zyx) < 1:
            raise GeometryError(f"shape_zyx is {self.shape_zyx}; expected three numbers of at least 1.")
        matrix = self.affine_array
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise GeometryError(f"the affine is {self.affine}; expected 4x4 finite numbers. Repair the header.")
        with np.errstate(all="ignore"):  # numbers of any size stand in damaged headers
            lengths = np.linalg.norm(matrix[:3, :3], axis=0)
            is_flat = min(lengths) <= 0 or not abs(np.linalg.det(matrix[:3, :3] / lengths)) >= 1e-3
        if is_flat:
            raise GeometryError(f"the affine {self.affine} has axes of length zero or in one plane. Repair the header.")

    @classmethod
    def from_affine(cls, shape_zyx: Sequence[int], affine: np.ndarray, *, header: bytes = b"") -> "ImageGeometry":
        """Make a geometry from a (4, 4) array that maps (x, y, z) indices to RAS+ millimeters."""
        depth, height, width = (int(size) for size in shape_zyx)
        rows = tuple(tuple(float(value) for value in row) for row in np.asarray(affine, dtype=np.float64))
        return cls(shape_zyx=(depth, height, width), affine=rows, header=header)

    @classmethod
    def from_spacing(
        cls,
        shape_zyx: Sequence[int],
        spacing_zyx_mm: Sequence[float],
        origin_xyz_mm: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> "ImageGeometry":
        """Make a canonical grid: axes along right, front and head, voxel (0, 0, 0) at `origin_xyz_mm`."""
        affine = np.diag([*(float(size) for size in reversed(tuple(spacing_zyx_mm))), 1.0])
        affine[:3, 3] = origin_xyz_mm
        return cls.from_affine(shape_zyx, affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres."""
        return float(np.prod(self.spacing_zyx_mm)) / MM3_PER_ML

    @property
    def affine_array(self) -> np.ndarray:
        """The affine as a fresh (4, 4) float64 array."""
        return np.array(self.affine, dtype=np.float64)

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Distance between the centers of neighbors along each array axis."""
        x, y, z = np.linalg.norm(self.affine_array[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def origin_xyz_mm(self) -> tuple[float, float, float]:
        """Center of voxel (0, 0, 0) in RAS+."""
        return float(self.affine[0][3]), float(self.affine[1][3]), float(self.affine[2][3])

    @property
    def direction(self) -> tuple[tuple[float, ...], ...]:
        """3x3 rows; its columns are the unit vectors of the x, y and z index axes in RAS+."""
        matrix = self.affine_array[:3, :3]
        return tuple(tuple(float(value) for value in row) for row in matrix / np.linalg.norm(matrix, axis=0))

    def to_json(self) -> dict[str, Any]:
        """Return the geometry as JSON content; `from_json` returns an equal one, the header included."""
        return {
            "shape_zyx": list(self.shape_zyx),
            "affine": [list(row) for row in self.affine],
            "header": base64.b64encode(self.header).decode("ascii"),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ImageGeometry":
        """Return the geometry that `to_json` converted.

        Raises:
            GeometryError: The content is not a geometry.
        """
        try:
            header = base64.b64decode(content["header"], validate=True)
            return cls.from_affine(content["shape_zyx"], np.array(content["affine"], dtype=np.float64), header=header)
        except (KeyError, TypeError, ValueError) as error:
            raise GeometryError(f"a stored geometry cannot be read: {error!r}. Preprocess the case again.") from error


def corners_mm(geometry: ImageGeometry) -> np.ndarray:
    """Return the eight corners in RAS+ millimeters, shape (8, 3); the x index changes slowest from row to row."""
    ends = [(0, size - 1) for size in reversed(geometry.shape_zyx)]
    indices = np.array(list(itertools.product(*ends)), dtype=np.float64)  # (8, 3) xyz
    matrix = geometry.affine_array
    return indices @ matrix[:3, :3].T + matrix[:3, 3]


def corner_distance_mm(a: ImageGeometry, b: ImageGeometry) -> float:
    """Return the largest distance between a corner of `a` and the same corner of `b`."""
    return float(np.linalg.norm(corners_mm(a) - corners_mm(b), axis=1).max())


def grids_differ(
    a: ImageGeometry,
    b: ImageGeometry,
    *,
    names: tuple[str, str] = ("image", "label"),
    voxels: float = SAME_PLACE_VOXELS,
) -> str | None:
    """Explain how two grids that must be equal differ; return None if they agree.

    Args:
        a: One grid.
        b: The other grid.
        names: The names of their owners for the message.
        voxels: The tolerated distance between corners, as a fraction of the smallest voxel side.
    """
    who = f"{names[0]} and {names[1]} differ in"
    if a.shape_zyx != b.shape_zyx:
        return f"{who} shape_zyx: {a.shape_zyx} and {b.shape_zyx}. Resample the {names[1]} onto the {names[0]}'s grid."
    if not np.allclose(a.spacing_zyx_mm, b.spacing_zyx_mm, rtol=SPACING_TOLERANCE, atol=0):
        spacings = f"{_rounded(a.spacing_zyx_mm)} and {_rounded(b.spacing_zyx_mm)}"
        return f"{who} spacing_zyx_mm: {spacings}. Resample the {names[1]}."
    allowed_mm = voxels * min(a.spacing_zyx_mm)
    distance_mm = corner_distance_mm(a, b)
    if distance_mm <= allowed_mm:
        return None
    if _same_box(a, b, allowed_mm=allowed_mm):
        return f"{who} the direction of their axes, but fill the same box: one header is flipped. {FLIPPED_REMEDY}"
    if _differ_in_sign_alone(a, b):
        return (
            f"{who} the sign of their axes alone: the arrays may be the same and one header flipped, as where LPS is "
            f"taken for RAS or a header was lost. {FLIPPED_REMEDY}"
        )
    apart = f"corners lie {distance_mm:.3g} mm apart. Resample the {names[1]}."
    if not np.allclose(a.direction, b.direction, atol=1e-3):
        return f"{who} direction: {tuple(map(_rounded, a.direction))} and {tuple(map(_rounded, b.direction))}; {apart}"
    if np.linalg.norm(np.subtract(a.origin_xyz_mm, b.origin_xyz_mm)) <= allowed_mm:
        return f"{who} spacing or direction by little: {a.spacing_zyx_mm} and {b.spacing_zyx_mm} mm; {apart}"
    return f"{who} origin_xyz_mm: {_rounded(a.origin_xyz_mm)} and {_rounded(b.origin_xyz_mm)}; {apart}"


def small_shift(a: ImageGeometry, b: ImageGeometry, *, name: str) -> str | None:
    """Describe the shift between two grids that count as equal; return None if it is mere rounding."""
    distance_mm = corner_distance_mm(a, b)
    if distance_mm <= UNNOTICED_MM:
        return None
    return f"the {name}'s grid lies {distance_mm:.3g} mm off, under 0.1 voxel; the image's grid is used."


def _differ_in_sign_alone(a: ImageGeometry, b: ImageGeometry) -> bool:
    """Return whether the axes of two grids are parallel and some of them point the other way."""
    cosines = (np.array(a.direction) * np.array(b.direction)).sum(axis=0)
    return bool((np.abs(cosines) > 1 - 1e-6).all() and (cosines < 0).any())


def _same_box(a: ImageGeometry, b: ImageGeometry, *, allowed_mm: float) -> bool:
    """Return whether the corners are the same points in another order."""
    distances = np.linalg.norm(corners_mm(a)[:, None] - corners_mm(b)[None], axis=2)  # (8, 8)
    return bool((distances.min(axis=0) <= allowed_mm).all() and (distances.min(axis=1) <= allowed_mm).all())


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)


@dataclass(frozen=True)
class AxisMap:
    """Maps between the file grid and the canonical grid by a permutation and flips, without interpolation.

    Attributes:
        permutation: Canonical array axis k (zyx) is the file's array axis `permutation[k]`.
        flips: Whether canonical axis k runs opposite to that file axis.
    """

    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """View the last three axes of a file-grid array (..., z, y, x) in canonical order."""
        leading = array.ndim - 3
        turned = array.transpose(*range(leading), *(leading + axis for axis in self.permutation))
        return turned[self._steps()]

    def undo(self, array: np.ndarray) -> np.ndarray:
        """View the last three axes of a canonical array in the file's order; the inverse of `apply`."""
        leading = array.ndim - 3
        inverse = (leading + self.permutation.index(axis) for axis in range(3))
        return array[self._steps()].transpose(*range(leading), *inverse)

    def _steps(self) -> tuple[Any, ...]:
        return (..., *(slice(None, None, -1) if flip else slice(None) for flip in self.flips))


def canonical_axis_map(geometry: ImageGeometry) -> AxisMap:
    """Find the permutation and flips whose axes are closest to right, anterior and superior."""
    cosines = np.array(geometry.direction)[::-1, ::-1]  # rows: space z, y, x; columns: file axes z, y, x
    nearness = np.abs(cosines).round(6)  # rounded, so that noise does not decide at 45 degrees
    orders: list[tuple[int, int, int]] = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    best = max(orders, key=lambda order: sum(nearness[space, axis] for space, axis in enumerate(order)))
    flip_z, flip_y, flip_x = (bool(cosines[space, axis] < 0) for space, axis in enumerate(best))
    return AxisMap(permutation=best, flips=(flip_z, flip_y, flip_x))


def reorient(geometry: ImageGeometry, axis_map: AxisMap) -> ImageGeometry:
    """Return the geometry of the array that `axis_map.apply` returns; voxels keep their position in space."""
    to_file = np.zeros((4, 4))  # canonical (x, y, z, 1) index to file index
    to_file[3, 3] = 1.0
    for canonical_zyx, (file_zyx, flip) in enumerate(zip(axis_map.permutation, axis_map.flips, strict=True)):
        to_file[2 - file_zyx, 2 - canonical_zyx] = -1.0 if flip else 1.0
        if flip:
            to_file[2 - file_zyx, 3] = geometry.shape_zyx[file_zyx] - 1
    shape_zyx = [geometry.shape_zyx[axis] for axis in axis_map.permutation]
    return ImageGeometry.from_affine(shape_zyx, geometry.affine_array @ to_file)


def nonzero_box(mask_zyx: np.ndarray) -> Box:
    """Return the smallest (start, stop) per axis that contains every true voxel; the whole grid if there is none."""
    bounds = []
    for axis in range(3):
        filled = np.flatnonzero(mask_zyx.any(axis=tuple(other for other in range(3) if other != axis)))
        if filled.size == 0:
            return (0, mask_zyx.shape[0]), (0, mask_zyx.shape[1]), (0, mask_zyx.shape[2])
        bounds.append((int(filled[0]), int(filled[-1]) + 1))
    return bounds[0], bounds[1], bounds[2]


def box_slices(box: Box) -> tuple[slice, slice, slice]:
    """Return the slices that cut a box out of an array (z, y, x)."""
    (z0, z1), (y0, y1), (x0, x1) = box
    return slice(z0, z1), slice(y0, y1), slice(x0, x1)
