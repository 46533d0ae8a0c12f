"""Draws planes of a scan as pictures: gray values, organs painted over them, and encoded image files.

Owns: the functions that previews, reports and the demo's pictures share.
Does not own: which planes are shown.

Legend: R x W a plane in voxels, H x V a picture in pixels.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from autoseg.export.colors import as_bytes, organ_color

GREY_PERCENTILES = (0.5, 99.5)
AIR_HU = -500.0  # only a CT scan has values as low
SOFT_TISSUE_HU = (-200.0, 300.0)
SAMPLED_VOXELS = 1_000_000  # enough for percentiles
FILL_OPACITY = 0.35


def grey_range(image: np.ndarray) -> tuple[float, float]:
    """Return the values shown as black and white: a soft-tissue window for CT, else nearly the whole range."""
    step = max(1, round((image.size / SAMPLED_VOXELS) ** (1 / 3)))
    sample = image[::step, ::step, ::step]
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(sample, GREY_PERCENTILES))
    if low < AIR_HU:
        return SOFT_TISSUE_HU
    return (low, high) if high > low else (low, low + 1.0)


def as_grey(plane: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Convert the values of a plane (R, W) to uint8, 0 (black) to 255 (white)."""
    low, high = limits
    share = (plane.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return (np.clip(np.nan_to_num(share), 0, 1) * 255).round().astype(np.uint8)


def resize(plane: np.ndarray, size: tuple[int, int], *, is_labels: bool = False) -> np.ndarray:
    """Resize a plane of uint8 or uint16 to (H, V) pixels, by nearest neighbor for labels, averaging gray values."""
    if is_labels:
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, plane.shape, strict=True)
        )
        return plane[rows][:, columns]
    picture = Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture)


def fit(shape: tuple[int, int], spacing_mm: tuple[float, float], *, most_px: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (H, V) within `most_px` that shows (R, W) voxels of this spacing without distortion."""
    sides = [number * step for number, step in zip(shape, spacing_mm, strict=True)]
    scale = min(most / side for most, side in zip(most_px, sides, strict=True))
    height, width = (max(1, round(side * scale)) for side in sides)
    return height, width


def paint(grey: np.ndarray, organs: np.ndarray) -> np.ndarray:
    """Paint organs over a picture: lightly filled, with edges in full color.

    Args:
        grey: (H, V) uint8.
        organs: (H, V) position of the organ among all, from 1; 0 is background.

    Returns:
        (H, V, 3) uint8.
    """
    table = color_table(int(organs.max(initial=0)))
    picture = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    inside = organs > 0
    picture[inside] += FILL_OPACITY * (table[organs[inside]] - picture[inside])
    edge = inside & _is_edge(organs)
    picture[edge] = table[organs[edge]]
    return picture.round().astype(np.uint8)


def color_table(num_organs: int) -> np.ndarray:
    """Return the colors of background (black) and organs, (1 + K, 3) float32 of 0 to 255."""
    return np.array([(0, 0, 0), *(as_bytes(organ_color(k)) for k in range(num_organs))], np.float32)


def encode(picture: np.ndarray, *, form: str = "PNG") -> bytes:
    """Return the bytes of an image file: "PNG", or "JPEG" for photographs; (H, V) or (H, V, 3) uint8."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format=form, **({"quality": 80} if form == "JPEG" else {}))
    return stream.getvalue()


def organ_places(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Convert the values of a label map to positions among the organs, 1 to K; 0 for background and unknown values."""
    table = np.zeros(max(int(labels.max(initial=0)), *values, 0) + 1, np.uint16 if len(values) > 255 else np.uint8)
    table[list(values)] = np.arange(1, len(values) + 1)
    return table[labels]


def _is_edge(organs: np.ndarray) -> np.ndarray:
    """Return whether the pixel above, below, left or right of each pixel has another label."""
    framed = np.pad(organs, 1)
    middle = framed[1:-1, 1:-1]
    edge: np.ndarray = (framed[:-2, 1:-1] != middle) | (framed[2:, 1:-1] != middle)
    edge |= (framed[1:-1, :-2] != middle) | (framed[1:-1, 2:] != middle)
    return edge
