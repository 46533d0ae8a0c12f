import itertools
import json

import numpy as np
import pytest

from autoseg.errors import GeometryError
from autoseg.io.geometry import (
    AxisMap,
    ImageGeometry,
    box_slices,
    canonical_axis_map,
    corner_distance_mm,
    corners_mm,
    grids_differ,
    nonzero_box,
    reorient,
    small_shift,
)

ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def oriented(order: tuple[int, ...], signs: tuple[int, ...], tilt: np.ndarray | None = None) -> np.ndarray:
    """Index axis i runs along space axis order[i], against it where the sign is -1; spacings 1, 2, 3 mm."""
    matrix = np.zeros((3, 3))
    for index_axis, (space_axis, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[space_axis, index_axis] = sign * (index_axis + 1.0)
    affine = np.eye(4)
    affine[:3, :3] = matrix if tilt is None else tilt @ matrix
    affine[:3, 3] = (10.0, -20.0, 30.0)
    return affine


def small_rotation(degrees: float = 10.0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    about_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    return about_z @ about_x


def test_from_spacing_gives_back_spacing_origin_and_straight_axes() -> None:
    geometry = ImageGeometry.from_spacing((4, 5, 6), (3.0, 2.0, 1.0), (10.0, 20.0, 30.0))
    assert geometry.spacing_zyx_mm == (3.0, 2.0, 1.0)
    assert geometry.origin_xyz_mm == (10.0, 20.0, 30.0)
    assert geometry.direction == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert (geometry.affine_array @ [5, 4, 3, 1]).tolist() == [15.0, 28.0, 39.0, 1.0]  # the last voxel


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((0, 2, 2), np.eye(4)),
        ((2, 2, 2), np.diag([1.0, 0.0, 1.0, 1.0])),
        ((2, 2, 2), np.diag([1.0, np.nan, 1.0, 1.0])),
        ((2, 2, 2), np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])),
    ],
    ids=["no voxels", "axis of length zero", "nan", "axes in a plane"],
)
def test_geometry_impossible_grid_is_refused(shape: tuple[int, ...], affine: np.ndarray) -> None:
    with pytest.raises(GeometryError):
        ImageGeometry.from_affine(shape, affine)


def test_to_json_and_back_keeps_grid_and_header() -> None:
    geometry = ImageGeometry.from_affine((2, 3, 4), oriented((1, 0, 2), (1, -1, 1)), header=b"\x00\xff")
    again = ImageGeometry.from_json(json.loads(json.dumps(geometry.to_json())))
    assert again == geometry
    assert again.header == b"\x00\xff"
    with pytest.raises(GeometryError):
        ImageGeometry.from_json({"shape_zyx": [1, 2], "affine": [], "header": ""})


def test_header_does_not_count_in_comparison() -> None:
    a = ImageGeometry.from_affine((2, 3, 4), np.eye(4), header=b"a")
    assert a == ImageGeometry.from_affine((2, 3, 4), np.eye(4), header=b"b")


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
@pytest.mark.parametrize("tilt", [None, small_rotation()], ids=["straight", "oblique"])
def test_reorient_every_orientation_keeps_each_voxel_in_place(
    order: tuple[int, ...], signs: tuple[int, ...], tilt: np.ndarray | None, rng: np.random.Generator
) -> None:
    array = rng.permutation(24).reshape(2, 3, 4)  # every value once
    geometry = ImageGeometry.from_affine(array.shape, oriented(order, signs, tilt))
    axis_map = canonical_axis_map(geometry)
    canonical, grid = axis_map.apply(array), reorient(geometry, axis_map)

    assert canonical.shape == grid.shape_zyx
    assert np.diag(np.array(grid.direction)).min() > 0.9  # right, front, head
    for value in range(24):
        z, y, x = np.argwhere(array == value)[0]
        c_z, c_y, c_x = np.argwhere(canonical == value)[0]
        np.testing.assert_allclose(geometry.affine_array @ [x, y, z, 1], grid.affine_array @ [c_x, c_y, c_z, 1])
    np.testing.assert_array_equal(axis_map.undo(canonical), array)


def test_axis_map_leading_axes_stay_and_result_is_a_view() -> None:
    axis_map = AxisMap(permutation=(2, 0, 1), flips=(True, False, True))
    array = np.arange(5 * 2 * 3 * 4).reshape(5, 2, 3, 4)
    canonical = axis_map.apply(array)
    assert canonical.shape == (5, 4, 2, 3)
    assert canonical[1, 0, 0, 0] == array[1, 0, 2, 3]
    assert np.shares_memory(canonical, array)
    np.testing.assert_array_equal(axis_map.undo(canonical), array)


def test_canonical_axis_map_of_canonical_grid_changes_nothing() -> None:
    axis_map = canonical_axis_map(ImageGeometry.from_spacing((2, 3, 4), (1, 1, 1)))
    assert axis_map == AxisMap(permutation=(0, 1, 2), flips=(False, False, False))


def test_corners_mm_are_the_centers_of_the_end_voxels() -> None:
    corners = corners_mm(ImageGeometry.from_spacing((2, 3, 4), (10.0, 5.0, 1.0)))
    assert corners.min(axis=0).tolist() == [0, 0, 0]
    assert corners.max(axis=0).tolist() == [3, 10, 10]
    assert len(np.unique(corners, axis=0)) == 8


def test_corner_distance_mm_shift_is_its_length() -> None:
    a = ImageGeometry.from_spacing((2, 3, 4), (1, 1, 1))
    b = ImageGeometry.from_spacing((2, 3, 4), (1, 1, 1), (3.0, 4.0, 0.0))
    assert corner_distance_mm(a, b) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (ImageGeometry.from_spacing((4, 4, 5), (1, 1, 1)), "shape_zyx: (4, 4, 4) and (4, 4, 5)"),
        (ImageGeometry.from_spacing((4, 4, 4), (2, 1, 1)), "spacing_zyx_mm: (1.0, 1.0, 1.0) and (2.0, 1.0, 1.0)"),
        (ImageGeometry.from_spacing((4, 4, 4), (1, 1, 1), (0, 0, 0.2)), "origin_xyz_mm"),
        (ImageGeometry.from_affine((4, 4, 4), np.eye(4)[[1, 0, 2, 3]] * [[-1], [1], [1], [1]]), "direction: ((1.0"),
        (ImageGeometry.from_spacing((4, 4, 4), (1, 1, 1.0009)), None),
    ],
    ids=["shape", "spacing", "origin", "direction", "nearly"],
)
def test_grids_differ_names_what_differs_and_both_values(other: ImageGeometry, words: str | None) -> None:
    message = grids_differ(ImageGeometry.from_spacing((4, 4, 4), (1, 1, 1)), other)
    assert (message is None) == (words is None)
    assert words is None or words in str(message)
    assert "flipped" not in str(message)


def test_grids_differ_spacing_that_adds_up_over_many_voxels_is_named_with_all_digits() -> None:
    a, b = (ImageGeometry.from_spacing((4, 4, 400), (1, 1, x)) for x in (1.0, 1.0009))
    message = grids_differ(a, b)
    assert "spacing or direction by little: (1.0, 1.0, 1.0) and (1.0, 1.0, 1.0009) mm" in str(message)
    assert "0.359 mm apart" in str(message)


def test_grids_differ_in_the_sign_of_axes_alone_is_called_a_flipped_header() -> None:
    """LPS taken for RAS: the same numbers, with x and y counted the other way."""
    affine = np.diag([-0.7, -0.7, 5.0, 1.0])
    affine[:3, 3] = (120, 90, -40)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    a, b = (ImageGeometry.from_affine((4, 5, 6), one) for one in (affine, lps))
    message = str(grids_differ(a, b))
    assert "sign of their axes alone" in message and "one header flipped" in message and "copy its affine" in message


def test_grids_differ_same_box_other_axes_is_called_a_flipped_header() -> None:
    a = ImageGeometry.from_spacing((4, 4, 4), (1, 1, 1))
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 3.0  # x runs from 3 down to 0: the same places
    assert "one header is flipped" in (grids_differ(a, ImageGeometry.from_affine((4, 4, 4), flipped)) or "")


def test_grids_differ_below_a_tenth_of_a_voxel_is_one_grid() -> None:
    a = ImageGeometry.from_spacing((4, 4, 4), (1, 1, 1))
    assert grids_differ(a, ImageGeometry.from_spacing((4, 4, 4), (1, 1, 1), (0.09, 0, 0))) is None
    assert grids_differ(a, ImageGeometry.from_spacing((4, 4, 4), (1, 1, 1), (0.11, 0, 0))) is not None


def test_small_shift_tells_the_distance_and_passes_over_rounding() -> None:
    a = ImageGeometry.from_spacing((4, 4, 4), (1, 1, 1))
    note = small_shift(a, ImageGeometry.from_spacing((4, 4, 4), (1, 1, 1), (0.05, 0, 0)), name="label")
    assert note == "the label's grid lies 0.05 mm off, under 0.1 voxel; the image's grid is used."
    assert small_shift(a, ImageGeometry.from_spacing((4, 4, 4), (1, 1, 1), (0.0005, 0, 0)), name="label") is None


def test_nonzero_box_cuts_out_all_true_voxels() -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[1, 2, 3] = mask[3, 2, 5] = True
    box = nonzero_box(mask)
    assert box == ((1, 4), (2, 3), (3, 6))
    assert mask[box_slices(box)].sum() == 2


def test_nonzero_box_empty_mask_gives_whole_grid() -> None:
    assert nonzero_box(np.zeros((2, 3, 4), dtype=bool)) == ((0, 2), (0, 3), (0, 4))
