import numpy as np
import pytest

from autoseg.config.plans import ChannelPlan, DataPlan, OrganPlan
from autoseg.errors import DatasetError
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from autoseg.preprocessing.pipeline import index_dtype, preprocess_case, to_organ_indices
from autoseg.preprocessing.transform import CaseTransform

VALUES = (3, 7, 200)
SPACING_ZYX = (2.0, 1.0, 1.5)
SHAPE_ZYX = (14, 24, 18)


def make_plan(*, values=VALUES, spacing=SPACING_ZYX, slice_axis="z", ignore=None, crop=True, **channel) -> DataPlan:
    return DataPlan(
        channels=(ChannelPlan(name="T1", normalization="zscore", **channel),),
        organs=tuple(OrganPlan(name=f"organ {value}", value=value, sentences=("x",)) for value in values),
        ignore_value=ignore,
        target_spacing_zyx_mm=spacing,
        slice_axis=slice_axis,
        crop_to_nonzero=crop,
    )


def affine_of(permutation_xyz, signs, spacing_zyx=SPACING_ZYX, rotation=None) -> np.ndarray:
    """File axis i (x, y, z) runs along world axis permutation[i], in the direction of signs[i]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(permutation_xyz, signs, strict=True)):
        affine[world, axis] = sign * spacing_zyx[2 - axis]
    if rotation is not None:
        affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, 3] = (-17.0, 5.0, 100.0)
    return affine


def test_preprocess_brings_a_marked_voxel_to_its_canonical_slice_row_and_column() -> None:
    # File axes: x runs to the left, y to the back; so canonical index = size - 1 - file index on both.
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[2, 0, 1] = 3
    geometry = ImageGeometry.from_affine(labels.shape, np.diag([-1.0, -1.0, 1.0, 1.0]))
    for slice_axis, place in (("z", (2, 3, 3)), ("y", (3, 2, 3)), ("x", (3, 2, 3))):
        plan = make_plan(spacing=(1, 1, 1), slice_axis=slice_axis)
        case = preprocess_case([Scan(labels + 1, geometry)], plan=plan, labels=Scan(labels, geometry))
        assert np.argwhere(case.labels == 1).tolist() == [list(place)]
        assert np.unravel_index(case.image[0].argmax(), case.image[0].shape) == place


def test_preprocess_of_an_empty_scan_keeps_the_whole_grid_as_zeros() -> None:
    geometry = ImageGeometry.from_spacing((2, 3, 4), (1, 1, 1))
    case = preprocess_case([Scan(np.zeros((2, 3, 4), np.int16), geometry)], plan=make_plan(spacing=(1, 1, 1)))
    np.testing.assert_array_equal(case.image, np.zeros((1, 2, 3, 4)))


def test_preprocess_inside_mask_fills_holes_and_zeroes_the_outside() -> None:
    image = np.zeros((5, 5, 5), np.float32)
    image[1:4, 1:4, 1:4] = 8
    image[2, 2, 2] = 0  # a hole inside counts as body
    geometry = ImageGeometry.from_spacing(image.shape, (1, 1, 1))
    plan = make_plan(spacing=(1, 1, 1), crop=False, nonzero_only=True)
    result = preprocess_case([Scan(image, geometry)], plan=plan).image[0]
    mean, deviation = 8 * 26 / 27, 8 * (26 / 27 * 1 / 27) ** 0.5
    np.testing.assert_allclose(result[1, 1, 1], (8 - mean) / deviation, rtol=1e-5)
    np.testing.assert_allclose(result[2, 2, 2], -mean / deviation, rtol=1e-5)
    assert result[0, 0, 0] == 0


def test_preprocess_leaves_the_scan_unchanged() -> None:
    image = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    before = image.copy()
    preprocess_case([Scan(image, ImageGeometry.from_spacing((4, 5, 6), (1, 1, 1)))], plan=make_plan(spacing=(1, 1, 1)))
    np.testing.assert_array_equal(image, before)


def test_preprocess_with_wrong_channels_or_shapes_raises() -> None:
    scan = Scan(np.ones((2, 2, 2)), ImageGeometry.from_spacing((2, 2, 2), (1, 1, 1)))
    other = Scan(np.ones((2, 2, 3), np.uint8), ImageGeometry.from_spacing((2, 2, 3), (1, 1, 1)))
    with pytest.raises(DatasetError, match="2 channels given; the plan expects 1: T1"):
        preprocess_case([scan, scan], plan=make_plan())
    with pytest.raises(DatasetError, match=r"\(2, 2, 2\) and \(2, 2, 3\)"):
        preprocess_case([scan], plan=make_plan(), labels=other)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64])
def test_to_organ_indices_follows_the_order_of_the_plan(dtype: type) -> None:
    labels = np.array([0, 7, 3, 9], dtype)
    result = to_organ_indices(labels, plan=make_plan(values=(7, 3), ignore=9))
    assert result.dtype == np.uint8
    assert result.tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize(("num_organs", "dtype", "ignored"), [(254, np.uint8, 255), (255, np.uint16, 65535)])
def test_to_organ_indices_of_many_organs_grows_the_type(num_organs: int, dtype: type, ignored: int) -> None:
    plan = make_plan(values=range(1000, 1000 + num_organs), ignore=65535)
    result = to_organ_indices(np.array([1000 + num_organs - 1, 65535, 0], np.uint16), plan=plan)
    assert index_dtype(num_organs) == dtype == result.dtype
    assert result.tolist() == [num_organs, ignored, 0]


@pytest.mark.parametrize(
    ("values", "named"), [([0, 4, 4], "4 (2 voxels)"), ([-1, 3], "-1 (1 voxels)"), ([70000], "70000")]
)
def test_to_organ_indices_of_an_unknown_value_raises(values: list[int], named: str) -> None:
    with pytest.raises(DatasetError) as caught:
        to_organ_indices(np.array(values, np.int32), plan=make_plan())
    assert named in str(caught.value)
    assert "[0, 3, 7, 200]" in str(caught.value)


def test_case_transform_survives_json() -> None:
    geometry = ImageGeometry.from_affine((3, 4, 5), affine_of((2, 0, 1), (1, -1, -1)), header=b"\x00\xff geometry")
    transform = CaseTransform(geometry, ((0, 3), (1, 4), (2, 5)), "x", (7, 8, 9))
    again = CaseTransform.from_json(transform.to_json())
    assert again == transform
    assert again.original.header == geometry.header
