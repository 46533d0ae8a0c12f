import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from autoseg.errors import GeometryError, ScanFileError, UsageError
from autoseg.io.array_input import as_scan, in_order_of
from autoseg.io.image import read_scan

AFFINE = np.array([[0, -1.5, 0, 5], [0, 0, 2.5, -7], [-1.0, 0, 0, 9], [0, 0, 0, 1]])


@pytest.fixture
def array_xyz(rng):
    return rng.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def test_every_kind_of_image_is_the_scan_that_its_file_holds(array_xyz, tmp_path):
    image = nib.Nifti1Image(array_xyz, AFFINE)
    nib.save(image, tmp_path / "scan.nii.gz")
    expected = read_scan(tmp_path / "scan.nii.gz")
    for one in (image, (array_xyz, AFFINE), sitk.ReadImage(str(tmp_path / "scan.nii.gz")), expected):
        scan = as_scan(one)
        np.testing.assert_array_equal(scan.array_zyx, expected.array_zyx)
        np.testing.assert_allclose(scan.geometry.affine, expected.geometry.affine, atol=1e-6)


def test_an_array_comes_back_in_the_order_of_its_image(array_xyz):
    assert in_order_of((array_xyz, AFFINE), np.zeros((6, 5, 4))).shape == (4, 5, 6)
    assert in_order_of(nib.Nifti1Image(array_xyz, AFFINE), np.zeros((6, 5, 4))).shape == (4, 5, 6)
    assert in_order_of("scan.nii.gz", np.zeros((6, 5, 4))).shape == (4, 5, 6)
    assert in_order_of(sitk.Image([4, 5, 6], sitk.sitkInt16), np.zeros((6, 5, 4))).shape == (6, 5, 4)


def test_single_slices_and_single_volumes_are_taken(rng):
    assert as_scan((np.zeros((4, 5), np.float64), np.eye(4))).array_zyx.shape == (1, 5, 4)
    scan = as_scan((np.zeros((4, 5, 6, 1)), np.eye(4)))
    assert scan.array_zyx.shape == (6, 5, 4) and scan.array_zyx.dtype == np.float32
    assert as_scan((np.ones((2, 2, 2), bool), np.eye(4))).array_zyx.dtype == np.uint8


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (7, "the image is a int. Give a path, a nibabel image"),
        (np.zeros((3, 3, 3)), "is a ndarray. Give"),
        ((np.zeros((3, 3, 3)), np.eye(3)), r"affine has the shape \(3, 3\)"),
        ((np.zeros((3, 3, 3, 2)), np.eye(4)), r"has the shape \(3, 3, 3, 2\); expected three axes"),
        ((np.zeros((3, 3, 3), complex), np.eye(4)), "holds complex128; expected grey values"),
        (nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), None), "has no affine"),
        (sitk.Image([4, 5], sitk.sitkInt16), "has 2 axes"),
        (sitk.Image([4, 5, 6], sitk.sitkVectorUInt8, 3), "expected grey values of three"),
    ],
)
def test_what_is_no_grey_volume_is_refused(image, message):
    with pytest.raises(UsageError, match=message):
        as_scan(image)


def test_impossible_grids_and_too_many_nan_are_refused():
    with pytest.raises(GeometryError, match="the image: the affine"):
        as_scan((np.zeros((3, 3, 3)), np.zeros((4, 4))))
    with pytest.raises(ScanFileError, match="channel 1: 27 of 27 voxels are NaN"):
        as_scan((np.full((3, 3, 3), np.nan), np.eye(4)), name="channel 1")
    array = np.zeros((5, 5, 5))
    array[0, 0, 0] = np.nan
    scan = as_scan((array, np.eye(4)))
    assert np.isfinite(scan.array_zyx).all() and scan.warnings == ("1 NaN or infinite voxels were replaced.",)
