import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from autoseg.errors import ScanFileError
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import (
    read_scan,
    write_scan,
)

Make = Callable[..., Any]
SMALL = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # z, y, x; the same as in conftest
WHOLE = nib.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4)).to_bytes()
PACKED = gzip.compress(WHOLE, mtime=0)


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (WHOLE[: 352 + 1040], "ends after 52 % of the voxels"),
        (gzip.compress(WHOLE[: 352 + 1040], mtime=0), "ends after 52 % of the voxels"),
        (PACKED[: len(PACKED) // 2], "ends after .* % of the voxels"),
        (PACKED[:-4], "the packed data has no end"),
        (flipped(PACKED, len(PACKED) - 6), "packed data fails the check"),
        (WHOLE[:352], "ends after 0 % of the voxels"),
        (WHOLE[:200], "ends inside its header"),
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Please log in", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer.*git lfs pull"),
        (bytes(128) + b"DICM" + bytes(500), "a DICOM file.*dcm2niix"),
        (b"PK\x03\x04" + bytes(500), "a zip archive"),
        (b"hello world, no scan" * 50, "is text, not a scan"),
        (bytes(range(128, 256)) * 5, "not a NIfTI file"),
        (gzip.compress(b"<html><body>404", mtime=0), "unpacked, is a web page"),
        (gzip.compress(PACKED, mtime=0), "packed by gzip once more"),
        (gzip.compress(bytes(257) + b"ustar" + bytes(300), mtime=0), "unpacked, is a tar archive"),
    ],
)
def test_read_scan_damaged_file_names_file_and_fault(tmp_path: Path, content: bytes, words: str, put: Make) -> None:
    path = put(content, "bad.nii.gz", pack=False)
    with pytest.raises(ScanFileError, match=words) as caught:
        read_scan(path)
    assert "bad.nii.gz" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)  # no home folders in logs


@pytest.mark.parametrize("position", range(40, len(PACKED) - 8, 97))
def test_read_scan_flipped_byte_anywhere_in_the_data_is_refused(position: int, put: Make) -> None:
    with pytest.raises(ScanFileError):
        read_scan(put(flipped(PACKED, position), pack=False))


def test_read_scan_bytes_after_the_voxels_warn_and_a_bomb_is_refused(nifti_bytes: Make, put: Make) -> None:
    for pack in (True, False):
        scan = read_scan(put(nifti_bytes() + b"rest", pack=pack))
        np.testing.assert_array_equal(scan.array_zyx, SMALL)
        assert "continues after its last voxel" in scan.warnings[0]
    with pytest.raises(ScanFileError, match="continues for more than 16 MiB"):
        read_scan(put(nifti_bytes() + bytes(17 << 20)))


def test_read_scan_other_kinds_of_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "dangling.nii.gz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.nii.gz").symlink_to(tmp_path / "circle.nii.gz")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    for name, words in (
        ("folder.nii.gz", "is a folder"),
        ("dangling.nii.gz", "is a link to a file that does not exist"),
        ("circle.nii.gz", "cannot be reached"),
        ("pipe.nii.gz", "is a pipe"),
        ("absent.nii.gz", "does not exist"),
    ):
        with pytest.raises(ScanFileError, match=words):
            read_scan(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["a b.nii.gz", "-o.nii.gz", "日本.nii.gz", "two\nlines.nii.gz", os.fsdecode(b"\xff.nii.gz")]
)
def test_odd_file_names_work_and_are_printed_escaped(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_scan(path, SMALL, geometry=ImageGeometry.from_spacing(SMALL.shape, (1, 1, 1)))
    np.testing.assert_array_equal(read_scan(path).array_zyx, SMALL)
    path.write_bytes(b"")
    with pytest.raises(ScanFileError) as caught:
        read_scan(path)
    str(caught.value).encode("utf-8")  # can be printed
    assert "\n" not in str(caught.value)
