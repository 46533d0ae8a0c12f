import itertools

import numpy as np
import pytest
from scipy import ndimage

from autoseg.errors import DatasetError, GeometryError
from autoseg.geometry import ImageGeometry
from autoseg.image_io import Scan
from autoseg.plans import ChannelPlan, DataPlan, OrganPlan
from autoseg.preprocessing.case import index_dtype, preprocess_case, to_organ_indices, undo_preprocessing
from autoseg.preprocessing.transform import CaseTransform

VALUES = (3, 7, 200)
SPACING_ZYX = (2.0, 1.0, 1.5)
SHAPE_ZYX = (14, 24, 18)


def make_plan(*, values=VALUES, spacing=SPACING_ZYX, slice_axis="z", ignore=None, crop=True, **channel) -> DataPlan:
    return DataPlan(
        channels=(ChannelPlan(name="T1", scheme="zscore", **channel),),
        organs=tuple(OrganPlan(name=f"organ {value}", value=value, sentences=("x",)) for value in values),
        ignore_value=ignore,
        target_spacing_zyx_mm=spacing,
        slice_axis=slice_axis,
        crop_to_nonzero=crop,
    )


def blob_labels(shape_zyx=SHAPE_ZYX, sigma_zyx=(3, 4, 4)) -> np.ndarray:
    """Large smooth regions of 0 and `VALUES`, with a border of background."""
    rng = np.random.default_rng(0)
    maps = ndimage.gaussian_filter(rng.normal(size=(4, *shape_zyx)), (0, *sigma_zyx))
    labels = np.array([0, *VALUES], np.uint8)[maps.argmax(0)]
    inside = np.zeros(shape_zyx, bool)
    inside[2:-2, 2:-2, 2:-2] = True
    return np.where(inside, labels, 0).astype(np.uint8)


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


def one_hot_slices(labels: np.ndarray, num_organs: int) -> list[np.ndarray]:
    return [np.stack([plane == k for k in range(num_organs + 1)]).astype(np.float32) for plane in labels]


def dice(a: np.ndarray, b: np.ndarray) -> list[float]:
    return [2 * ((a == v) & (b == v)).sum() / max(1, (a == v).sum() + (b == v).sum()) for v in VALUES]


def round_trip(labels: np.ndarray, affine: np.ndarray, plan: DataPlan) -> np.ndarray:
    geometry = ImageGeometry.from_affine(labels.shape, affine)
    image = (labels > 0).astype(np.float32) + 0.5
    case = preprocess_case([Scan(image, geometry)], plan=plan, labels=Scan(labels, geometry))
    assert case.labels is not None
    assert case.image.shape[1:] == case.labels.shape == case.transform.resampled_shape
    slices = one_hot_slices(case.labels, len(VALUES))
    return undo_preprocessing(iter(slices), transform=case.transform, organ_values=VALUES)


ORIENTATIONS = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def test_orientations_are_forty_eight() -> None:
    assert len(ORIENTATIONS) == 48


@pytest.mark.parametrize("slice_axis", ["z", "y", "x"])
@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_round_trip_without_resampling_is_exact_in_every_orientation(permutation, signs, slice_axis) -> None:
    labels = blob_labels()
    affine = affine_of(permutation, signs)
    canonical_xyz = [SPACING_ZYX[2 - permutation.index(world)] for world in range(3)]
    plan = make_plan(spacing=tuple(canonical_xyz[::-1]), slice_axis=slice_axis)
    np.testing.assert_array_equal(round_trip(labels, affine, plan), labels)


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_round_trip_with_resampling_keeps_dice_in_every_orientation(permutation, signs) -> None:
    labels = blob_labels((20, 26, 24))
    result = round_trip(labels, affine_of(permutation, signs), make_plan(spacing=(1.2, 1.2, 1.2)))
    assert min(dice(result, labels)) > 0.95


@pytest.mark.parametrize("target", [(1.0, 1.0, 1.0), (2.5, 1.2, 1.2), (6.0, 0.7, 0.7)])
@pytest.mark.parametrize("slice_axis", ["z", "y", "x"])
def test_round_trip_of_an_oblique_anisotropic_scan_keeps_dice(target, slice_axis) -> None:
    angle = np.deg2rad(25)
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    labels = blob_labels((12, 60, 56), sigma_zyx=(3, 7, 7))
    affine = affine_of((0, 1, 2), (-1, -1, 1), (6.0, 0.8, 0.8), rotation)
    result = round_trip(labels, affine, make_plan(spacing=target, slice_axis=slice_axis))
    assert min(dice(result, labels)) > 0.95


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


def test_preprocess_crops_to_nonzero_of_any_channel_and_undo_leaves_background_outside() -> None:
    first, second = np.zeros((4, 6, 6), np.float32), np.zeros((4, 6, 6), np.float32)
    first[1, 2, 2], second[2, 4, 3] = 5, 5
    geometry = ImageGeometry.from_spacing(first.shape, (1, 1, 1))
    plan = make_plan(spacing=(1, 1, 1))
    plan = plan.model_copy(update={"channels": plan.channels * 2})
    case = preprocess_case([Scan(first, geometry), Scan(second, geometry)], plan=plan)
    assert case.transform.crop_box == ((1, 3), (2, 5), (2, 4))
    assert case.image.shape == (2, 2, 3, 2)
    assert case.labels is None
    everywhere = [np.stack([np.zeros((3, 2)), np.ones((3, 2))])] * 2
    result = undo_preprocessing(everywhere, transform=case.transform, organ_values=[9])
    assert (result == 9).sum() == 12 and (result[1:3, 2:5, 2:4] == 9).all()


def test_preprocess_of_an_empty_scan_keeps_the_whole_grid_as_zeros() -> None:
    geometry = ImageGeometry.from_spacing((2, 3, 4), (1, 1, 1))
    case = preprocess_case([Scan(np.zeros((2, 3, 4), np.int16), geometry)], plan=make_plan(spacing=(1, 1, 1)))
    np.testing.assert_array_equal(case.image, np.zeros((1, 2, 3, 4)))


def test_preprocess_inside_mask_fills_holes_and_zeroes_the_outside() -> None:
    image = np.zeros((5, 5, 5), np.float32)
    image[1:4, 1:4, 1:4] = 8
    image[2, 2, 2] = 0  # a hole inside counts as body
    geometry = ImageGeometry.from_spacing(image.shape, (1, 1, 1))
    plan = make_plan(spacing=(1, 1, 1), crop=False, only_inside_mask=True)
    result = preprocess_case([Scan(image, geometry)], plan=plan).image[0]
    mean, deviation = 8 * 26 / 27, 8 * (26 / 27 * 1 / 27) ** 0.5
    np.testing.assert_allclose(result[1, 1, 1], (8 - mean) / deviation, rtol=1e-5)
    np.testing.assert_allclose(result[2, 2, 2], -mean / deviation, rtol=1e-5)
    assert result[0, 0, 0] == 0


def test_preprocess_a_single_slice_scan_and_back() -> None:
    labels = blob_labels((5, 24, 18))[2:3]
    np.testing.assert_array_equal(round_trip(labels, affine_of((0, 1, 2), (1, 1, 1)), make_plan()), labels)


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


def make_transform(shape, resampled, slice_axis="z") -> CaseTransform:
    geometry = ImageGeometry.from_spacing(shape, (1, 1, 1))
    box = tuple((0, size) for size in shape)
    return CaseTransform(geometry, box, slice_axis, resampled)


@pytest.mark.parametrize("resampled", [(5, 7, 9), (3, 4, 4), (9, 12, 5), (1, 1, 1), (6, 4, 8), (5, 3, 9)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_undo_equals_interpolating_whole_maps_at_once(resampled, dtype) -> None:
    shape = (5, 7, 9)
    rng = np.random.default_rng(2)
    maps = ndimage.gaussian_filter(rng.normal(size=(4, *resampled)), (0, 1, 1, 1)).astype(dtype)
    axes = [np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1) for n, m in zip(resampled, shape, strict=True)]
    positions = np.stack(np.meshgrid(*axes, indexing="ij"))
    whole = np.stack([ndimage.map_coordinates(one.astype(np.float64), positions, order=1) for one in maps])
    slices = (np.ascontiguousarray(maps[:, index]) for index in range(resampled[0]))
    result = undo_preprocessing(slices, transform=make_transform(shape, resampled), organ_values=VALUES)
    top = np.sort(whole, axis=0)
    clear = top[-1] - top[-2] > 1e-5
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(result[clear], np.array([0, *VALUES])[whole.argmax(0)][clear])


def test_undo_gives_ties_and_nan_to_the_background() -> None:
    maps = np.zeros((3, 1, 2), np.float32)
    maps[:, 0, 1] = np.nan
    result = undo_preprocessing([maps], transform=make_transform((1, 1, 2), (1, 1, 2)), organ_values=[4, 5])
    assert result.tolist() == [[[0, 0]]]


def test_undo_gives_ties_between_organs_to_the_first() -> None:
    maps = np.array([0, 2, 2], np.float32).reshape(3, 1, 1)
    result = undo_preprocessing([maps], transform=make_transform((1, 1, 1), (1, 1, 1)), organ_values=[5, 4])
    assert result.item() == 5


@pytest.mark.parametrize(("value", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_undo_uses_the_smallest_unsigned_type(value: int, dtype: type) -> None:
    maps = np.stack([np.zeros((1, 1)), np.ones((1, 1))])
    result = undo_preprocessing([maps], transform=make_transform((1, 1, 1), (1, 1, 1)), organ_values=[value])
    assert result.dtype == dtype and result.item() == value


@pytest.mark.parametrize("num_slices", [0, 2, 4])
def test_undo_with_a_wrong_number_of_slices_raises(num_slices: int) -> None:
    slices = [np.zeros((2, 4, 5))] * num_slices
    with pytest.raises(GeometryError, match="slice"):
        undo_preprocessing(slices, transform=make_transform((6, 4, 5), (3, 4, 5)), organ_values=[1])


def test_undo_with_a_wrong_shape_raises() -> None:
    with pytest.raises(GeometryError, match=r"\(2, 4, 6\); expected 1 slices \(2, 4, 5\)"):
        undo_preprocessing([np.zeros((2, 4, 6))], transform=make_transform((1, 4, 5), (1, 4, 5)), organ_values=[1])


def test_undo_takes_slices_one_after_the_other_and_holds_no_more_than_a_few() -> None:
    alive: list[int] = []

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.append(-1)

    def produce():
        for _ in range(20):
            alive.append(1)
            yield np.zeros((3, 4, 4), np.float32).view(Counted)
            peaks.append(sum(alive))

    peaks: list[int] = []
    undo_preprocessing(produce(), transform=make_transform((37, 4, 4), (20, 4, 4)), organ_values=[1, 2])
    assert len(peaks) == 20 and max(peaks) <= 4


def test_undo_holds_no_label_map_before_the_last_slice_has_come() -> None:
    import tracemalloc

    shape = (200, 96, 96)
    held: list[int] = []

    def produce():
        for number in range(shape[0]):
            maps = np.zeros((2, *shape[1:]), np.float32)
            maps[1, number % 60 : number % 60 + 30, 20:70] = 1
            yield maps
            held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    labels = undo_preprocessing(produce(), transform=make_transform(shape, shape), organ_values=[7])
    tracemalloc.stop()
    assert max(held) < labels.nbytes / 2 and (labels == 7).sum() == shape[0] * 30 * 50


def test_case_transform_survives_json() -> None:
    geometry = ImageGeometry.from_affine((3, 4, 5), affine_of((2, 0, 1), (1, -1, -1)), header=b"\x00\xff geometry")
    transform = CaseTransform(geometry, ((0, 3), (1, 4), (2, 5)), "x", (7, 8, 9))
    again = CaseTransform.from_json(transform.to_json())
    assert again == transform
    assert again.original.header == geometry.header
