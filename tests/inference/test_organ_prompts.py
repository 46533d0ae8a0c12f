import itertools

import numpy as np
import pytest
import torch

from autoseg.errors import UsageError
from autoseg.inference.organ_prompts import OrganPrompts, PlacedPointPrompts, Span, place_point_prompts
from autoseg.inference.tiles import Tiles
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from autoseg.network.point_prompts import BOX_FIRST, BOX_LAST, INSIDE, NOTHING, NUM_POINTS, OUTSIDE
from autoseg.preprocessing.pipeline import preprocess_case

# a slice of 20 x 10 in windows of 12 x 12: padded by 1 column before
TILES = Tiles(shape=(20, 10), window=(12, 12), padded=(20, 12), before=(0, 1), corners=((0, 0), (8, 0)))


def make_span(low, high=None):
    """Make the span from the pixel `low` to the pixel `high`, each half a pixel further out."""
    edges = np.array(low) - 0.5, np.array(high or low) + 0.5
    return Span(*(tuple(edge.tolist()) for edge in edges))


def make_placed(*, points=(), box=None):
    return PlacedPointPrompts(points=(tuple(points),), boxes=(box,))


def set_points(point_prompts):
    """Return what is not NOTHING: for each slice the kinds and places of the one organ."""
    return [
        [(int(kind), place.tolist()) for kind, place in zip(kinds[0], places[0], strict=True) if kind != NOTHING]
        for kinds, places in zip(point_prompts.kinds, point_prompts.places, strict=True)
    ]


def test_a_point_is_in_its_slice_and_in_the_windows_that_hold_it():
    placed = make_placed(points=[(make_span((2, 9, 4)), INSIDE), (make_span((2, 1, 0)), OUTSIDE)])
    first = placed.in_window([1, 2], TILES, (0, 0))
    assert first.kinds.shape == (2, 1, NUM_POINTS)
    assert set_points(first) == [[], [(INSIDE, [9, 5]), (OUTSIDE, [1, 1])]]
    assert set_points(placed.in_window([2], TILES, (8, 0))) == [[(INSIDE, [1, 5])]]


def test_a_box_is_in_every_slice_it_spans_and_is_cut_at_the_window():
    placed = make_placed(box=make_span((1, 10, 2), (3, 15, 8)))
    first = set_points(placed.in_window([0, 1, 2, 3, 4], TILES, (0, 0)))
    assert first == [[], *[[(BOX_FIRST, [10, 3]), (BOX_LAST, [11, 9])]] * 3, []]
    assert set_points(placed.in_window([2], TILES, (8, 0))) == [[(BOX_FIRST, [2, 3]), (BOX_LAST, [7, 9])]]
    above = make_placed(box=make_span((1, 0, 2), (3, 5, 8)))
    assert set_points(above.in_window([2], TILES, (8, 0))) == [[]]


def test_the_number_of_points_is_that_of_the_case_whatever_slice_is_asked_for():
    many = make_placed(points=[(make_span((2, row, 4)), INSIDE) for row in range(7)])
    assert many.num_points == 9
    assert many.in_window([0], TILES, (0, 0)).kinds.shape == many.in_window([2], TILES, (0, 0)).kinds.shape == (1, 1, 9)


@pytest.mark.parametrize(
    ("low", "high", "slices"),
    [
        (1.5, 5.5, [2, 3, 4, 5]),  # voxels 1 and 2 of a file with slices twice as thick
        (1.5, 3.5, [2, 3]),
        (-0.5, -0.17, [0]),  # a voxel thinner than a slice belongs to the nearest
        (0.17, 0.5, [0]),
        (0.6, 0.9, [1]),
    ],
)
def test_a_span_holds_the_slices_whose_middle_it_has_or_the_nearest(low, high, slices):
    span = Span((low, 0, 0), (high, 1, 1))
    assert [number for number in range(8) if span.holds_slice(number)] == slices


@pytest.fixture
def placed_in(tiny_plans):
    """Place points on a scan of 4 x 20 x 30 voxels (z, y, x), 3 x 2 x 0.5 mm, to a grid of 3 x 1 x 1 mm."""

    def place(point_prompts):
        geometry = ImageGeometry.from_affine((4, 20, 30), np.diag([-0.5, 2, 3, 1]))
        case = preprocess_case([Scan(np.ones((4, 20, 30), np.float32), geometry)], plan=tiny_plans(2).data)
        assert case.image.shape == (1, 4, 40, 15)
        return place_point_prompts(point_prompts, names=["liver", "spleen"], transform=case.transform)

    return place


def test_voxels_reach_the_preprocessed_grid(placed_in):
    """Voxel i = 3 of 30 runs to the left: from the other end it is 26; its middle, 26.5 of 30, is 13.25 of 15."""
    placed = placed_in({"spleen": OrganPrompts(inside=[(3, 5, 2)], outside=[(29, 0, 0)], box=((3, 5, 2), (5, 1, 1)))})
    assert placed.points[0] == () and placed.boxes[0] is None
    (inside, kind), (outside, other) = placed.points[1]
    assert (kind, other) == (INSIDE, OUTSIDE)
    assert inside.low == pytest.approx((1.5, 9.5, 12.5)) and inside.high == pytest.approx((2.5, 11.5, 13.0))
    assert outside.low == pytest.approx((-0.5, -0.5, -0.5)) and outside.high == pytest.approx((0.5, 1.5, 0))
    box = placed.boxes[1]
    assert box.low == pytest.approx((0.5, 1.5, 11.5)) and box.high == pytest.approx((2.5, 11.5, 13.0))


def test_points_outside_the_scan_are_refused(placed_in):
    for voxel in ((30, 0, 0), (0, -1, 0), (0, 0, 4)):
        with pytest.raises(
            UsageError, match=r"point_prompts on 'liver': voxel .* outside the scan of shape \(30, 20, 4"
        ):
            placed_in({"liver": OrganPrompts(inside=(voxel,))})


def test_every_point_lies_on_the_voxel_that_it_names_whatever_the_orientation(tiny_plans):
    """A scan with one bright voxel: on the preprocessed grid of the same spacing it is where the point is."""
    plan = tiny_plans(1).data.model_copy(update={"target_spacing_zyx_mm": (1.0, 1.0, 1.0)})
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.diag(signs)[list(axes)]
            array = np.full((5, 6, 7), 0.5, np.float32)
            array[1, 4, 2] = 9.0
            scan = Scan(array, ImageGeometry.from_affine((5, 6, 7), affine))
            case = preprocess_case([scan], plan=plan)
            point_prompts = {"organ 0": OrganPrompts(inside=((2, 4, 1),))}
            placed = place_point_prompts(point_prompts, names=["organ 0"], transform=case.transform)
            brightest = np.unravel_index(case.image[0].argmax(), case.image.shape[1:])
            assert [*placed.points[0][0][0].low] == pytest.approx([index - 0.5 for index in brightest])


def test_tensors_are_what_the_network_takes():
    point_prompts = make_placed(points=[(make_span((0, 1, 1)), INSIDE)]).in_window([0], TILES, (0, 0))
    assert point_prompts.places.dtype == torch.float32 and point_prompts.kinds.dtype == torch.int64


@pytest.mark.parametrize(
    "wrong",
    [
        {"inside": ((3, 3),)},
        {"inside": (3, 3, 1)},
        {"outside": ((1.5, 2, 3),)},
        {"box": ((1, 2, 3),)},
        {"box": (1, 2, 3, 4, 5, 6)},
        {"box": ((1, 2, 3), (4, 5, 6), (7, 8, 9))},
    ],
    ids=str,
)
def test_what_is_no_voxel_or_no_box_is_refused_at_once(wrong):
    with pytest.raises(UsageError, match=r"OrganPrompts: (inside|outside|box)="):
        OrganPrompts(**wrong)


def test_a_point_in_the_border_that_is_cropped_away_is_told(tiny_plans, caplog):
    array = np.zeros((4, 20, 30), np.float32)
    array[:, 5:15, 10:20] = 1 + np.arange(10)
    case = preprocess_case(
        [Scan(array, ImageGeometry.from_affine((4, 20, 30), np.diag([1, 1, 3, 1])))], plan=tiny_plans(1).data
    )
    place_point_prompts({"liver": OrganPrompts(inside=[(12, 7, 1)])}, names=["liver"], transform=case.transform)
    assert caplog.text == ""
    place_point_prompts({"liver": OrganPrompts(inside=[(2, 7, 1)])}, names=["liver"], transform=case.transform)
    assert "point_prompts on 'liver': [(2, 7, 1)] lies in the empty border" in caplog.text
