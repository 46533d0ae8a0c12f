"""CT-like scans of any size with fourteen organs, made quickly: for measuring time and memory, not quality."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import write_label_map, write_scan

ORGANS = {number: f"organ {number}" for number in range(1, 15)}
AIR_HU, BODY_HU, DARKEST_HU, STEP_HU, NOISE_HU = -1000, -60, 0, 18, 12
SIDE_SHARE = (0.06, 0.13)  # half axes of an organ, of the scan's width


def write_case(image: Path, label: Path | None, *, shape_zyx: tuple[int, int, int], spacing_zyx_mm, seed: int) -> None:
    """Write a scan, int16, and its label map."""
    rng = np.random.default_rng(seed)
    labels = draw_labels(rng, shape_zyx)
    brightness = np.array([BODY_HU, *(DARKEST_HU + STEP_HU * k for k in range(len(ORGANS)))], np.int16)
    array = brightness[labels]
    array[:, ~_ellipse(shape_zyx[1:], center=(0.5, 0.5), axes=(0.42, 0.47))] = AIR_HU
    block = ndimage.gaussian_filter(rng.normal(size=(8, *shape_zyx[1:])).astype(np.float32), (0, 0.7, 0.7))
    noise = (block / block.std() * NOISE_HU).astype(np.int16)
    for z, plane in enumerate(array):
        plane += noise[z % len(noise)]
    geometry = ImageGeometry.from_spacing(shape_zyx, spacing_zyx_mm)
    write_scan(image, array, geometry=geometry)
    if label is not None:
        write_label_map(label, labels, geometry=geometry, names=ORGANS)


def draw_labels(rng: np.random.Generator, shape_zyx: tuple[int, int, int]) -> np.ndarray:
    """Draw ellipsoids around places that are the same in every scan, but for some chance."""
    labels = np.zeros(shape_zyx, np.uint8)
    sizes = np.array(shape_zyx)
    for number in ORGANS:
        turn = 2 * np.pi * number / len(ORGANS)
        ring = 0.13 if number % 2 else 0.29
        center = np.array([0.5 + 0.2 * np.cos(3 * turn), 0.5 + ring * np.sin(turn), 0.5 + ring * np.cos(turn)])
        middle = (center + rng.uniform(-0.03, 0.03, 3)) * sizes
        axes = rng.uniform(*SIDE_SHARE, 3) * (1.6, 1, 1) * sizes
        low = np.maximum(np.floor(middle - axes).astype(int), 0)
        high = np.minimum(np.ceil(middle + axes).astype(int) + 1, sizes)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.ogrid[box]
        inside = sum(((g - m) / a) ** 2 for g, m, a in zip(grid, middle, axes, strict=True)) <= 1
        labels[box][inside] = number
    return labels


def _ellipse(shape: tuple[int, int], *, center: tuple[float, float], axes: tuple[float, float]) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside: np.ndarray = ((rows / shape[0] - center[0]) / axes[0]) ** 2 + (
        (columns / shape[1] - center[1]) / axes[1]
    ) ** 2 <= 1
    return inside
