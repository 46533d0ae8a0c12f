"""Miniatures of public sources: tiny scans and label maps at the places where the source has its own."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from autoseg.datasets.dataset import Dataset, read_dataset
from autoseg.io.image import read_labels
from autoseg.organs import describe_organ
from autoseg.organs.modality import find_modality
from dataset_conversion.conversion import Conversion, convert

SHAPE = (6, 8, 10)  # z, y, x
SPACING_ZYX_MM = (3.0, 0.8, 0.8)
FIRST = 80  # the first voxel of the second slice


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
    """Give a writer of label maps; voxel k of the second slice holds the k-th value."""

    def save(path: Path, values: Sequence[int]) -> Path:
        array = np.zeros(SHAPE, dtype=np.uint8)
        array.reshape(-1)[FIRST : FIRST + len(values)] = values
        return save_scan(path, array, spacing_zyx_mm=SPACING_ZYX_MM)

    return save


@pytest.fixture
def read_values() -> Callable[..., list[int]]:
    """Give a reader of what `save_labels` was given."""

    def read(path: Path, count: int) -> list[int]:
        return read_labels(path).array_zyx.reshape(-1)[FIRST : FIRST + count].tolist()

    return read


@pytest.fixture
def convert_here(tmp_path: Path) -> Callable[..., tuple[Conversion, ...]]:
    """Give a conversion in this process, to `tmp_path / "out"`, which also checks what holds of every source.

    Each label has a description of its own; and the source is as it was.
    """

    def run(module: ModuleType, source: Path, **options: object) -> tuple[Conversion, ...]:
        before = _files_of(source)
        find = partial(module.find, **options)
        for dataset in find(source):
            modality = find_modality(dataset.channel_names)
            known = [describe_organ(name, modality=modality) for name in dataset.labels]
            assert [name for name, one in zip(dataset.labels, known, strict=True) if not one.is_known] == []
            assert len({one.sentences for one in known}) == len(known)
        done = convert(module.ORIGIN, find, source, out=tmp_path / "out", num_workers=0)
        assert _files_of(source) == before
        return done

    return run


@pytest.fixture
def read_back() -> Callable[[Path], Dataset]:
    """Give a reader of the result, which must have nothing wrong."""

    def read(folder: Path) -> Dataset:
        dataset = read_dataset(folder)
        assert [problem for problem in dataset.problems if problem.is_error] == []
        return dataset

    return read


def _files_of(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}
