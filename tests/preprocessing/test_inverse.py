"""The network's maps back to the file's grid, and there and back again in every orientation."""

import itertools
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg.config.plans import ChannelPlan, DataPlan, OrganPlan
from autoseg.errors import GeometryError
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from autoseg.preprocessing import argmax, inverse
from autoseg.preprocessing.inverse import undo_preprocessing
from autoseg.preprocessing.pipeline import preprocess_case
from autoseg.preprocessing.transform import CaseTransform

VALUES = (3, 7, 200)
SPACING_ZYX = (2.0, 1.0, 1.5)
SHAPE_ZYX = (14, 24, 18)
ORIENTATIONS = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def make_plan(*, values=VALUES, spacing=SPACING_ZYX, slice_axis="z") -> DataPlan:
    return DataPlan(
        channels=(ChannelPlan(name="T1", normalization="zscore"),),
        organs=tuple(OrganPlan(name=f"organ {value}", value=value, sentences=("x",)) for value in values),
        target_spacing_zyx_mm=spacing,
        slice_axis=slice_axis,
        crop_to_nonzero=True,
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


def make_transform(shape, resampled, slice_axis="z") -> CaseTransform:
    geometry = ImageGeometry.from_spacing(shape, (1, 1, 1))
    box = tuple((0, size) for size in shape)
    return CaseTransform(geometry, box, slice_axis, resampled)


def one_hot_slices(labels: np.ndarray, num_organs: int) -> list[np.ndarray]:
    return [np.stack([plane == k for k in range(num_organs + 1)]).astype(np.float32) for plane in labels]


def undo(slices, *, at_once=1, **facts) -> np.ndarray:
    """Give the maps of so many slices at once."""
    slices = list(slices)
    batches = (np.stack(slices[start : start + at_once]) for start in range(0, len(slices), at_once))
    return undo_preprocessing(map(torch.from_numpy, batches), **facts)


@pytest.fixture(params=["one by one", "at once"])
def either_way(request, monkeypatch) -> None:
    """As a CPU finds the argmax, and as a GPU does."""
    if request.param == "at once":
        monkeypatch.setattr(argmax, "find_one_by_one", argmax.find_at_once)
        monkeypatch.setattr(inverse, "PLANES_ON_CPU", 3)


def dice(a: np.ndarray, b: np.ndarray) -> list[float]:
    return [2 * ((a == v) & (b == v)).sum() / max(1, (a == v).sum() + (b == v).sum()) for v in VALUES]


def round_trip(labels: np.ndarray, affine: np.ndarray, plan: DataPlan) -> np.ndarray:
    geometry = ImageGeometry.from_affine(labels.shape, affine)
    image = (labels > 0).astype(np.float32) + 0.5
    case = preprocess_case([Scan(image, geometry)], plan=plan, labels=Scan(labels, geometry))
    assert case.labels is not None
    assert case.image.shape[1:] == case.labels.shape == case.transform.resampled_shape
    slices = one_hot_slices(case.labels, len(VALUES))
    return undo(slices, transform=case.transform, organ_values=VALUES)


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
    result = undo(everywhere, transform=case.transform, organ_values=[9])
    assert (result == 9).sum() == 12 and (result[1:3, 2:5, 2:4] == 9).all()


def test_preprocess_a_single_slice_scan_and_back() -> None:
    labels = blob_labels((5, 24, 18))[2:3]
    np.testing.assert_array_equal(round_trip(labels, affine_of((0, 1, 2), (1, 1, 1)), make_plan()), labels)


@pytest.mark.parametrize("resampled", [(5, 7, 9), (3, 4, 4), (9, 12, 5), (1, 1, 1), (6, 4, 8), (5, 3, 9)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_undo_equals_interpolating_whole_maps_at_once(either_way, resampled, dtype, at_once) -> None:
    shape = (5, 7, 9)
    rng = np.random.default_rng(2)
    maps = ndimage.gaussian_filter(rng.normal(size=(4, *resampled)), (0, 1, 1, 1)).astype(dtype)
    axes = [np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1) for n, m in zip(resampled, shape, strict=True)]
    positions = np.stack(np.meshgrid(*axes, indexing="ij"))
    whole = np.stack([ndimage.map_coordinates(one.astype(np.float64), positions, order=1) for one in maps])
    slices = (np.ascontiguousarray(maps[:, index]) for index in range(resampled[0]))
    result = undo(slices, at_once=at_once, transform=make_transform(shape, resampled), organ_values=VALUES)
    top = np.sort(whole, axis=0)
    clear = top[-1] - top[-2] > 1e-5
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(result[clear], np.array([0, *VALUES])[whole.argmax(0)][clear])


def test_undo_gives_ties_and_nan_to_the_background(either_way) -> None:
    maps = np.zeros((3, 1, 2), np.float32)
    maps[:, 0, 1] = np.nan
    result = undo([maps], transform=make_transform((1, 1, 2), (1, 1, 2)), organ_values=[4, 5])
    assert result.tolist() == [[[0, 0]]]


def test_undo_gives_ties_between_organs_to_the_first(either_way) -> None:
    maps = np.array([0, 2, 2], np.float32).reshape(3, 1, 1)
    result = undo([maps], transform=make_transform((1, 1, 1), (1, 1, 1)), organ_values=[5, 4])
    assert result.item() == 5


@pytest.mark.parametrize(("value", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_undo_uses_the_smallest_unsigned_type(either_way, value: int, dtype: type) -> None:
    maps = np.stack([np.zeros((1, 1)), np.ones((1, 1))])
    result = undo([maps], transform=make_transform((1, 1, 1), (1, 1, 1)), organ_values=[value])
    assert result.dtype == dtype and result.item() == value


@pytest.mark.parametrize("num_slices", [0, 2, 4])
def test_undo_with_a_wrong_number_of_slices_raises(num_slices: int) -> None:
    slices = [np.zeros((2, 4, 5))] * num_slices
    with pytest.raises(GeometryError, match="slice"):
        undo(slices, transform=make_transform((6, 4, 5), (3, 4, 5)), organ_values=[1])


def test_undo_with_a_wrong_shape_raises() -> None:
    with pytest.raises(GeometryError, match=r"\(2, 4, 6\); expected 1 slices \(2, 4, 5\)"):
        undo([np.zeros((2, 4, 6))], transform=make_transform((1, 4, 5), (1, 4, 5)), organ_values=[1])


@pytest.mark.parametrize("num_organs", [254, 255, 300])
def test_undo_tells_more_organs_apart_than_a_byte_holds(either_way, num_organs) -> None:
    maps = np.zeros((1 + num_organs, 1, 2), np.float32)
    maps[-1, 0, 0] = maps[1, 0, 1] = 1
    facts = {"transform": make_transform((1, 1, 2), (1, 1, 2)), "organ_values": range(1, 1 + num_organs)}
    assert undo([maps], **facts).tolist() == [[[num_organs, 1]]]


def test_undo_writes_down_what_the_winner_lacks_of_all_probability(either_way) -> None:
    maps = np.array([[0.9, 0.1], [0.1, 0.6], [0.0, 0.3]], np.float32).reshape(3, 1, 2)
    unsure = np.zeros((1, 1, 2), np.uint8)
    transform = make_transform((1, 1, 2), (1, 1, 2))
    labels = undo([maps], transform=transform, organ_values=[4, 5], uncertainty_zyx=unsure)
    assert labels.tolist() == [[[0, 4]]] and unsure.tolist() == [[[round(25.5), 102]]]


@pytest.mark.parametrize("slice_axis", ["z", "y", "x"])
def test_undo_fills_in_the_probability_of_each_organ(either_way, slice_axis) -> None:
    shape = (3, 4, 5)
    probs = np.random.default_rng(0).dirichlet(np.ones(3), shape).astype(np.float32)  # (z, y, x, 3)
    axis = "zyx".index(slice_axis)
    slices = np.moveaxis(probs, axis, 0).transpose(0, 3, 1, 2)  # (S, 3, R, W)
    percent = np.full((2, *shape), 7, np.uint8)
    transform = make_transform(shape, slices.shape[:1] + slices.shape[2:], slice_axis)
    labels = undo(slices, at_once=2, transform=transform, organ_values=[4, 5], percent_kzyx=percent)
    np.testing.assert_array_equal(percent, np.rint(100 * probs[..., 1:]).transpose(3, 0, 1, 2))
    np.testing.assert_array_equal(labels, np.array([0, 4, 5])[probs.argmax(-1)])


def test_undo_takes_slices_one_after_the_other_and_holds_no_more_than_a_few() -> None:
    alive: list[int] = []

    def produce():
        for _ in range(20):
            maps = torch.zeros(1, 3, 4, 4)
            alive.append(1)
            weakref.finalize(maps, alive.append, -1)
            yield maps
            del maps
            peaks.append(sum(alive))

    peaks: list[int] = []
    undo_preprocessing(produce(), transform=make_transform((37, 4, 4), (20, 4, 4)), organ_values=[1, 2])
    assert len(peaks) == 20 and max(peaks) <= 3


def test_undo_holds_no_label_map_before_the_last_slice_has_come() -> None:
    shape = (200, 96, 96)
    held: list[int] = []

    def produce():
        for number in range(shape[0]):
            maps = torch.zeros(1, 2, *shape[1:])
            maps[0, 1, number % 60 : number % 60 + 30, 20:70] = 1
            yield maps
            held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    labels = undo_preprocessing(produce(), transform=make_transform(shape, shape), organ_values=[7])
    tracemalloc.stop()
    assert max(held) < labels.nbytes / 2 and (labels == 7).sum() == shape[0] * 30 * 50
