"""Miniatures of public sources: tiny scans and label maps at the places where the source has its own."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

SHAPE = (6, 8, 10)  # z, y, x
SPACING_ZYX_MM = (3.0, 0.8, 0.8)


@pytest.fixture
def save_image(save_scan: Callable[..., Path]) -> Callable[..., Path]:
    """Give a writer of images; each is a ramp that begins at another number, several volumes make a 4D file."""

    def save(path: Path, *, begin: int = 0, num_volumes: int = 1) -> Path:
        volumes = [np.arange(480, dtype=np.int16).reshape(SHAPE) + begin + 1000 * index for index in range(num_volumes)]
        array = volumes[0] if num_volumes == 1 else np.stack(volumes)
        return save_scan(path, array, spacing_zyx_mm=SPACING_ZYX_MM)

    return save


@pytest.fixture
def save_labels(save_scan: Callable[..., Path]) -> Callable[..., Path]:
    """Give a writer of label maps; voxel k of the first row of the second slice holds the k-th value."""

    def save(path: Path, values: Sequence[int]) -> Path:
        array = np.zeros(SHAPE, dtype=np.uint8)
        array.reshape(-1)[80 : 80 + len(values)] = values
        return save_scan(path, array, spacing_zyx_mm=SPACING_ZYX_MM)

    return save


def first_voxels(array_zyx: np.ndarray, count: int) -> list[int]:
    """Give what `save_labels` was given."""
    return array_zyx.reshape(-1)[80 : 80 + count].tolist()
