"""Converts miniatures of sources, reads what came of them, and damages files."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from autoseg.io.image import read_labels, read_scan
from dataset_conversion.conversion import Conversion, convert


def run(module: ModuleType, source: Path, out: Path, **options: object) -> Conversion:
    """Convert a source of one dataset in this process."""
    (done,) = run_all(module, source, out, **options)
    return done


def run_all(module: ModuleType, source: Path, out: Path, **options: object) -> tuple[Conversion, ...]:
    """Convert a source of several datasets in this process."""
    return convert(module.ORIGIN, partial(module.find, **options), source, out=out, num_workers=0)


def messages_of(*done: Conversion) -> dict[str, str]:
    """Give the last message about each case; those about a dataset are under ""."""
    return {problem.case_id: problem.message for one in done for problem in one.problems}


def described(folder: Path) -> dict[str, Any]:
    """Read the dataset.json of a converted dataset."""
    content: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    return content


def image_of(folder: Path, case: str) -> np.ndarray:
    """Read the first channel of a case to train on, (z, y, x)."""
    return read_scan(folder / "imagesTr" / f"{case}_0000.nii.gz").array_zyx


def labels_of(folder: Path, case: str) -> np.ndarray:
    """Read the label map of a case to train on, (z, y, x)."""
    return read_labels(folder / "labelsTr" / f"{case}.nii.gz").array_zyx


def damage(content: bytes, rng: np.random.Generator, *, step: int, start: int = 0) -> Iterator[bytes]:
    """Give the content cut off at every `step`-th byte, and with that byte changed."""
    for place in range(start, len(content), step):
        yield content[:place]
        yield content[:place] + bytes([int(rng.integers(256))]) + content[place + 1 :]
