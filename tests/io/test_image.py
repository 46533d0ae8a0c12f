import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from autoseg.errors import ScanFileError
from autoseg.io.image import (
    count_volumes,
    is_scan_name,
    read_all_volumes,
    read_header,
    read_labels,
    read_scan,
    scan_stem,
)

Make = Callable[..., Any]
SMALL = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # z, y, x; the same as in conftest


def test_read_scan_gives_zyx_values_as_stored(nifti_bytes: Make, put: Make) -> None:
    scan = read_scan(put(nifti_bytes()))
    np.testing.assert_array_equal(scan.array_zyx, SMALL)
    assert scan.array_zyx.dtype == np.int16
    assert scan.array_zyx.flags.writeable
    assert scan.geometry.shape_zyx == (2, 3, 4)
    assert scan.warnings == ()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_read_scan_every_type_and_byte_order_equals_nibabel(
    dtype: str, order: str, nifti_bytes: Make, put: Make
) -> None:
    path = put(nifti_bytes(SMALL.astype(dtype), order=order))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.array_zyx, np.asanyarray(nib.load(path).dataobj).transpose())
    assert scan.array_zyx.dtype == (np.dtype("f4") if dtype[0] == "f" else np.dtype(dtype))


def test_read_scan_nifti2_is_read(nifti_bytes: Make, put: Make) -> None:
    scan = read_scan(put(nifti_bytes(kind=nib.Nifti2Header)))
    np.testing.assert_array_equal(scan.array_zyx, SMALL)


@pytest.mark.parametrize(
    ("slope", "intercept", "first_two", "num_warnings"),
    [
        (2.0, -10.0, [-10, -8], 0),
        (1.0, 0.0, [0, 1], 0),
        (0.0, 0.0, [0, 1], 0),
        (0.0, 5.0, [0, 1], 1),
        (np.nan, 7.0, [0, 1], 1),
        (0.5, np.nan, [0, 0.5], 1),
    ],
)
def test_read_scan_slope_and_intercept(
    slope: float, intercept: float, first_two: list[float], num_warnings: int, nifti_bytes: Make, put: Make
) -> None:
    scan = read_scan(put(nifti_bytes(scl_slope=slope, scl_inter=intercept)))
    assert scan.array_zyx.ravel()[:2].tolist() == first_two
    assert len(scan.warnings) == num_warnings


def test_read_scan_gzip_is_told_by_its_bytes_not_its_name(nifti_bytes: Make, put: Make) -> None:
    packed_as_plain = put(nifti_bytes(), "a.nii", pack=True)
    plain_as_packed = put(nifti_bytes(), "b.nii.gz", pack=False)
    for path in (packed_as_plain, plain_as_packed):
        np.testing.assert_array_equal(read_scan(path).array_zyx, SMALL)


def test_read_scan_several_gzip_members_and_padding_are_read(tmp_path: Path, nifti_bytes: Make) -> None:
    content = nifti_bytes()
    path = tmp_path / "case.nii.gz"
    path.write_bytes(
        b"".join(gzip.compress(part) for part in (content[:300], content[300:370], content[370:])) + bytes(9)
    )
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.array_zyx, SMALL)
    assert scan.warnings == ()


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 17, 3_000_000])
def test_read_scan_larger_than_a_chunk_equals_nibabel(tmp_path: Path, rng: np.random.Generator, size: int) -> None:
    array = rng.integers(0, 200, size=(1, 1, size), dtype=np.uint8)
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti2Image(array.transpose(), np.eye(4)), path)
    np.testing.assert_array_equal(read_scan(path).array_zyx, array)


def test_read_scan_4d_with_one_volume_and_2d_become_3d(nifti_bytes: Make, put: Make) -> None:
    four = read_scan(put(nifti_bytes(SMALL[None]), "four.nii.gz"))
    two = read_scan(put(nifti_bytes(SMALL[0], pixdim=[1, 1, 1, 0, 0, 0, 0, 0]), "two.nii.gz"))
    assert four.geometry.shape_zyx == (2, 3, 4)
    assert two.array_zyx.shape == (1, 3, 4)
    assert two.geometry.spacing_zyx_mm == (1, 1, 1)


def test_read_scan_of_several_volumes_is_refused_and_read_all_volumes_reads_them(nifti_bytes: Make, put: Make) -> None:
    path = put(nifti_bytes(np.stack([SMALL, SMALL + 100])))
    with pytest.raises(ScanFileError, match="2 volumes; expected one"):
        read_scan(path)
    assert count_volumes(path) == 2
    assert [scan.array_zyx[0, 0, 0] for scan in read_all_volumes(path)] == [0, 100]


def test_read_scan_few_bad_voxels_are_replaced_and_counted(nifti_bytes: Make, put: Make) -> None:
    array = np.ones((10, 10, 10), dtype=np.float32)
    array[0, 0, :5] = [-7, 9, np.nan, np.inf, -np.inf]
    scan = read_scan(put(nifti_bytes(array)))
    assert scan.array_zyx[0, 0, :5].tolist() == [-7, 9, -7, 9, -7]
    assert scan.warnings == ("3 NaN or infinite voxels were replaced.",)


def test_read_scan_over_one_percent_bad_voxels_is_refused(nifti_bytes: Make, put: Make) -> None:
    array = np.ones((10, 10, 10), dtype=np.float32)
    array[0, 0] = np.nan
    assert read_scan(put(nifti_bytes(array))).warnings  # exactly 1 %
    array[1, 0, 0] = np.nan
    with pytest.raises(ScanFileError, match="11 of 1000 voxels are NaN"):
        read_scan(put(nifti_bytes(array)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_read_labels_gives_the_smallest_type(dtype: type, nifti_bytes: Make, put: Make) -> None:
    labels = read_labels(put(nifti_bytes(SMALL.astype(dtype))))
    assert labels.array_zyx.dtype == np.uint8
    np.testing.assert_array_equal(labels.array_zyx, SMALL)


def test_read_labels_large_and_negative_values_keep_their_number(nifti_bytes: Make, put: Make) -> None:
    large = read_labels(put(nifti_bytes(SMALL.astype(np.int32) * 1000)))
    assert (large.array_zyx.dtype, large.array_zyx.max()) == (np.uint16, 23000)
    negative = read_labels(put(nifti_bytes(SMALL - 1)))
    assert (negative.array_zyx.dtype, negative.array_zyx.min()) == (np.int32, -1)
    with pytest.raises(ScanFileError, match="expected 0 to 65535"):
        read_labels(put(nifti_bytes(SMALL.astype(np.int64) << 40)))


def test_read_labels_nearly_integers_are_rounded_others_refused(nifti_bytes: Make, put: Make) -> None:
    labels = read_labels(put(nifti_bytes((SMALL * 1.00004578).clip(0, 3).astype(np.float32))))
    assert np.unique(labels.array_zyx).tolist() == [0, 1, 2, 3]
    assert labels.warnings == ("2 label values are not integers, such as 1.00004578, and were rounded.",)
    assert read_labels(put(nifti_bytes(SMALL.astype(np.float32)))).warnings == ()
    with pytest.raises(ScanFileError, match=r"holds 1\.5 \(and 1 such voxels in all\).*nearest-neighbor"):
        read_labels(put(nifti_bytes(np.where(SMALL == 3, 1.5, 1.0))))
    with pytest.raises(ScanFileError, match="NaN or infinite"):
        read_labels(put(nifti_bytes(np.where(SMALL == 3, np.nan, 1.0))))


def test_read_header_equals_the_scans_grid_without_the_voxels(nifti_bytes: Make, put: Make) -> None:
    content = gzip.compress(nifti_bytes(np.zeros((50, 50, 50), dtype=np.uint8)))
    whole = put(content, "whole.nii.gz", pack=False)
    cut = put(content[: len(content) - 9], "cut.nii.gz", pack=False)
    assert read_header(whole) == read_scan(whole).geometry == read_header(cut)


def test_scan_names() -> None:
    assert [is_scan_name(name) for name in ("a.nii", "a.NII.GZ", "._a.nii.gz", "a.nrrd", "a.Mha", "a.nii.gz.part")] == [
        True,
        True,
        False,
        True,
        True,
        False,
    ]
    assert [scan_stem(name) for name in ("x/a.b.nii.gz", "a.nii", "a.nrrd", "a.png")] == ["a.b", "a", "a", "a.png"]
