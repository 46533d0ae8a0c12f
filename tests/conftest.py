"""Fixtures that every test may use."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

SaveScan = Callable[..., Path]
SMALL = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # z, y, x
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
def nifti_bytes() -> Callable[..., bytes]:
    """Give a maker of NIfTI files by hand: 2 x 3 x 4 voxels of 1 mm, an sform, then any header field as given."""

    def make(array: np.ndarray = SMALL, *, order: str = "<", kind: Any = nib.Nifti1Header, **fields: Any) -> bytes:
        header = kind(endianness=order)
        header.set_data_shape(array.shape[::-1])
        header.set_data_dtype(array.dtype)
        header["pixdim"][1:4] = 1.0
        header.set_sform(np.eye(4), code=1)
        header["vox_offset"] = header.single_vox_offset
        header["magic"] = header.single_magic
        for field, value in fields.items():
            header[field] = value
        return header.binaryblock + bytes(4) + array.astype(array.dtype.newbyteorder(order)).tobytes()

    return make


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Give a writer of bytes: (content, name, pack=gzip it) -> path."""

    def write(content: bytes, name: str = "case.nii.gz", *, pack: bool = True) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(content, mtime=0) if pack else content)
        return path

    return write


@pytest.fixture
def real_data() -> Path:
    """Give the folder of real scans; skip where there is none."""
    if not (REAL_DATA / "README.md").is_file():
        pytest.skip(f"real scans are not there: {REAL_DATA} holds no README.md")
    return REAL_DATA
