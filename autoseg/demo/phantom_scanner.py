"""Simulates the scanner of the phantoms: grid, intensities of tissues on CT and MRI, blur, bias field and noise.

Owns: everything that differs between two scans of one patient. Does not own: the patient (`phantom_anatomy.py`).
"""

from typing import Literal

import numpy as np
from scipy import ndimage

from autoseg.demo.phantom_anatomy import Tissue
from autoseg.demo.phantom_shapes import rotation_matrix
from autoseg.io.geometry import ImageGeometry

Modality = Literal["CT", "MRI"]

_FIELD_MM = (316.0, 224.0)  # width and depth of the largest torso with a rim of air
_BLUR_MM = 1.5  # standard deviation of the point spread
_CT_RANGE_HU = (-1024, 1500)

# Order of the file's index axes against RAS+ (axis, sign for each of i, j, k), and how often scanners store it.
_ORIENTATIONS: tuple[tuple[tuple[tuple[int, int], ...], float], ...] = (
    (((0, -1), (1, -1), (2, 1)), 0.4),  # LPS, as DICOM
    (((0, -1), (1, 1), (2, 1)), 0.25),  # LAS
    (((0, 1), (1, 1), (2, 1)), 0.2),  # RAS
    (((0, -1), (1, -1), (2, -1)), 0.1),  # slices from head to foot
    (((1, 1), (2, 1), (0, -1)), 0.05),  # turned by a converter: the first axis runs to the front
)
_OBLIQUE_SHARE = 0.3


def draw_grid(rng: np.random.Generator) -> ImageGeometry:
    """Draw a field of view over the upper abdomen: thick slices, sometimes tilted, stored in one of several orders."""
    in_plane_mm = rng.uniform(3.3, 3.7)
    spacing_mm = np.array([in_plane_mm, in_plane_mm, rng.uniform(4.5, 6.0)])
    shape = np.array([round(_FIELD_MM[0] / in_plane_mm), round(_FIELD_MM[1] / in_plane_mm), rng.integers(22, 27)])
    middle_mm = np.array([rng.uniform(-4, 4), rng.uniform(-4, 4), rng.uniform(14, 26)])
    tilt_degrees = rng.uniform(-7, 7, size=3) if rng.random() < _OBLIQUE_SHARE else np.zeros(3)
    shares = [share for _, share in _ORIENTATIONS]
    axes = _ORIENTATIONS[int(rng.choice(len(shares), p=shares))][0]
    columns = [rotation_matrix(tilt_degrees)[:, axis] * sign * spacing_mm[axis] for axis, sign in axes]
    sizes = [int(shape[axis]) for axis, _ in axes]
    affine = np.eye(4)
    affine[:3, :3] = np.stack(columns, axis=1)
    affine[:3, 3] = middle_mm - affine[:3, :3] @ ((np.array(sizes) - 1) / 2)
    affine = np.round(affine, 5)  # float32 in the file must not make two grids of one
    return ImageGeometry.from_affine(sizes[::-1], affine)


def voxel_centers_mm(geometry: ImageGeometry) -> np.ndarray:
    """Return the (N, 3) centers of all voxels, in the order of a raveled zyx array, RAS+."""
    affine = geometry.affine_array.astype(np.float32)
    z, y, x = (np.arange(size, dtype=np.float32) for size in geometry.shape_zyx)
    centers = (x[None, None, :, None] * affine[:3, 0] + y[None, :, None, None] * affine[:3, 1]) + z[
        :, None, None, None
    ] * affine[:3, 2]
    return (centers + affine[:3, 3]).reshape(-1, 3)


def scan(
    tissues_zyx: np.ndarray, *, geometry: ImageGeometry, modality: Modality, rng: np.random.Generator
) -> np.ndarray:
    """Return the image of tissues, float32 of the same shape: HU (integers) for CT, arbitrary units for MRI."""
    sigma = [_BLUR_MM / spacing for spacing in geometry.spacing_zyx_mm]
    draw = _draw_hu if modality == "CT" else _draw_signal
    sharp = draw(rng)[tissues_zyx]
    if modality == "CT":
        sharp += _grain(rng, tissues_zyx.shape, sigma=1.5, deviation=5.0)
        image = ndimage.gaussian_filter(sharp, sigma)
        image += _grain(rng, image.shape, sigma=0.5, deviation=rng.uniform(8, 14))
        return np.rint(image.clip(*_CT_RANGE_HU)).astype(np.float32)
    sharp *= 1 + _grain(rng, tissues_zyx.shape, sigma=1.5, deviation=0.05)
    image = ndimage.gaussian_filter(sharp, sigma) * _shading(rng, geometry.shape_zyx)
    noise = rng.uniform(0.02, 0.035)
    real = image + rng.normal(0, noise, size=image.shape).astype(np.float32)
    imaginary = rng.normal(0, noise, size=image.shape).astype(np.float32)
    return (np.hypot(real, imaginary) * np.float32(10 ** rng.uniform(2, 3.3))).astype(np.float32)


def _draw_hu(rng: np.random.Generator) -> np.ndarray:
    """Draw the HU of each tissue; contrast ranges from little to the full portal-venous phase."""
    contrast = rng.uniform(0.45, 1.0)
    kidney = 34 + 140 * contrast + rng.normal(0, 8)
    hu = {
        Tissue.AIR: -1000,
        Tissue.SKIN: 10,
        Tissue.FAT: -103,
        Tissue.MUSCLE: 52 + 8 * contrast,
        Tissue.LUNG: -845,
        Tissue.CORTICAL_BONE: 480,
        Tissue.MARROW: 210,
        Tissue.DISC: 95,
        Tissue.SPINAL_FLUID: 25,
        Tissue.LIVER: 58 + 55 * contrast + rng.normal(0, 6),
        Tissue.SPLEEN: 50 + 75 * contrast + rng.normal(0, 6),
        Tissue.KIDNEY_CORTEX: kidney,
        Tissue.KIDNEY_MEDULLA: kidney - 30 * contrast,
        Tissue.BILE: 8 + rng.normal(0, 4),
        Tissue.ARTERY: 42 + 130 * contrast + rng.normal(0, 12),
        Tissue.VEIN: 42 + 115 * contrast + rng.normal(0, 8),
        Tissue.BOWEL_WALL: 48 + 35 * contrast,
        Tissue.BOWEL_FLUID: 18 + rng.normal(0, 6),
    }
    return np.array([hu[tissue] for tissue in Tissue], dtype=np.float32)


def _draw_signal(rng: np.random.Generator) -> np.ndarray:
    """Draw the signal of each tissue on a T2-weighted MRI, where fat is about 0.9."""
    kidney = rng.normal(0.6, 0.03)
    signal = {
        Tissue.AIR: 0.0,
        Tissue.SKIN: 0.45,
        Tissue.FAT: rng.uniform(0.85, 1.0),
        Tissue.MUSCLE: 0.2,
        Tissue.LUNG: 0.05,
        Tissue.CORTICAL_BONE: 0.12,
        Tissue.MARROW: rng.normal(0.46, 0.02),
        Tissue.DISC: rng.normal(0.6, 0.06),
        Tissue.SPINAL_FLUID: 1.3,
        Tissue.LIVER: rng.normal(0.34, 0.02),
        Tissue.SPLEEN: rng.normal(0.54, 0.03),
        Tissue.KIDNEY_CORTEX: kidney,
        Tissue.KIDNEY_MEDULLA: kidney + 0.08,
        Tissue.BILE: rng.normal(1.4, 0.06),
        Tissue.ARTERY: rng.normal(0.1, 0.02),
        Tissue.VEIN: rng.normal(0.18, 0.03),
        Tissue.BOWEL_WALL: rng.normal(0.36, 0.02),
        Tissue.BOWEL_FLUID: rng.normal(1.1, 0.08),
    }
    values = np.array([signal[tissue] for tissue in Tissue], dtype=np.float32)
    return (values ** np.float32(rng.uniform(0.9, 1.15))).astype(np.float32)


def _grain(rng: np.random.Generator, shape: tuple[int, ...], *, sigma: float, deviation: float) -> np.ndarray:
    """Return noise blurred by `sigma` voxels, scaled back to the given deviation."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)
    return noise * np.float32(deviation / max(float(noise.std()), 1e-6))


def _shading(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a bias field of MRI, a smooth factor from about 0.75 to 1.25."""
    coarse = rng.uniform(-0.25, 0.25, size=(3, 3, 3))
    zoom = [size / 3 for size in shape]
    return (1 + ndimage.zoom(coarse, zoom, order=2, mode="nearest", grid_mode=True)).astype(np.float32)
