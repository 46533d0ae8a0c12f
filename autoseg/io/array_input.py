"""Converts images in memory to scans: those of nibabel and SimpleITK, or an array with its affine.

Owns: `as_scan`, and `in_order_of` for results.
Does not own: files (`image.py`).
"""

from typing import Any

import numpy as np

from autoseg.errors import GeometryError, UsageError
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from autoseg.io.voxels import replace_not_finite

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
EXPECTED = "Give a path, a nibabel image, a SimpleITK image, or (array, affine) with the array indexed i, j, k."


def as_scan(image: Any, *, name: str = "the image") -> Scan:
    """Convert an image in memory to a scan; its voxels are not copied where their type allows it.

    Args:
        image: A nibabel image, a SimpleITK image, or an array (i, j, k) with its 4x4 affine (RAS+, mm). A fourth axis
            of one volume is dropped.
        name: For messages.

    Raises:
        UsageError: It is none of these, or not grey values of three axes.
        GeometryError: Its grid is impossible.
        ScanFileError: Over 1 % of its voxels are not finite.
    """
    if isinstance(image, Scan):
        return image
    if hasattr(image, "dataobj") and hasattr(image, "affine"):
        if image.affine is None:
            raise UsageError(f"{name} has no affine. {EXPECTED}")
        array, affine = np.asanyarray(image.dataobj), np.asarray(image.affine, np.float64)
        array_zyx = _three_axes(array, name=name).transpose(2, 1, 0)
    elif hasattr(image, "GetDirection") and hasattr(image, "GetSpacing"):
        array_zyx, affine = from_simpleitk(image, name=name)
    elif isinstance(image, tuple) and len(image) == 2:
        array, affine = np.asarray(image[0]), np.asarray(image[1], np.float64)
        if affine.shape != (4, 4):
            raise UsageError(f"{name}: the affine has the shape {affine.shape}; expected (4, 4).")
        array_zyx = _three_axes(array, name=name).transpose(2, 1, 0)
    else:
        raise UsageError(f"{name} is a {type(image).__name__}. {EXPECTED}")
    if array_zyx.dtype.kind not in "iufb":
        raise UsageError(f"{name} holds {array_zyx.dtype}; expected grey values. {EXPECTED}")
    if array_zyx.dtype.kind == "b":
        array_zyx = array_zyx.astype(np.uint8)
    if array_zyx.dtype.kind == "f":
        array_zyx = array_zyx.astype(np.float32, copy=False)
    array_zyx, warnings = replace_not_finite(array_zyx, name=name)
    try:
        geometry = ImageGeometry.from_affine(array_zyx.shape, affine)
    except (GeometryError, ValueError) as error:
        raise GeometryError(f"{name}: {error}") from error
    return Scan(array_zyx, geometry, warnings)


def in_order_of(image: Any, array_zyx: np.ndarray) -> np.ndarray:
    """Return an array (z, y, x) in the axis order of its image: (k, j, i) for SimpleITK, else (i, j, k)."""
    if isinstance(image, Scan) or hasattr(image, "GetDirection"):
        return array_zyx
    return array_zyx.transpose(2, 1, 0)


def from_simpleitk(image: Any, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the array (z, y, x) and the affine (RAS+) of a SimpleITK image.

    Raises:
        UsageError: It has not three axes of grey values.
    """
    import SimpleITK as sitk  # noqa: N813 - here, since most users have none

    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UsageError(f"{name} has {image.GetDimension()} axes; expected grey values of three. {EXPECTED}")
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = LPS_TO_RAS @ np.array(image.GetOrigin())
    return sitk.GetArrayFromImage(image), affine


def _three_axes(array: np.ndarray, *, name: str) -> np.ndarray:
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise UsageError(f"{name} has the shape {array.shape}; expected three axes. {EXPECTED}")
    return array
