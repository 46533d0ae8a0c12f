"""Fixtures that every test may use."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SaveScan = Callable[..., Path]
REAL_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240611)


@pytest.fixture
def save_scan() -> SaveScan:
    """Give a writer of small NIfTI files that is nibabel's, not ours: (path, array_zyx, spacing or affine) -> path."""

    def save(
        path: Path,
        array_zyx: np.ndarray,
        *,
        spacing_zyx_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
        affine: np.ndarray | None = None,
    ) -> Path:
        if affine is None:
            affine = np.diag([*spacing_zyx_mm[::-1], 1.0])
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.asarray(array_zyx).transpose(), affine), path)
        return path

    return save


@pytest.fixture
def real_data() -> Path:
    """Give the folder of real scans; skip where there is none."""
    if not (REAL_DATA / "README.md").is_file():
        pytest.skip(f"real scans are not there: {REAL_DATA} holds no README.md")
    return REAL_DATA
