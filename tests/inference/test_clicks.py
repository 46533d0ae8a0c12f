import itertools

import numpy as np
import pytest
import torch

from autoseg.errors import UsageError
from autoseg.geometry import ImageGeometry
from autoseg.image_io import Scan
from autoseg.inference.clicks import OrganClicks, PlacedClicks, place_clicks
from autoseg.inference.tiles import Tiles
from autoseg.network.clicks import BOX_FIRST, BOX_LAST, INSIDE, NOTHING, OUTSIDE
from autoseg.preprocessing.case import preprocess_case

# a slice of 20 x 10 in windows of 12 x 12: padded by 1 column before
TILES = Tiles(shape=(20, 10), window=(12, 12), padded=(20, 12), before=(0, 1), corners=((0, 0), (8, 0)))


def make_placed(*, points=(), box=None):
    return PlacedClicks(points=(tuple(points),), boxes=(box,))


def test_a_point_is_in_its_slice_and_in_the_windows_that_hold_it():
    placed = make_placed(points=[((2.2, 9.0, 4.0), INSIDE), ((2.0, 1.0, 0.0), OUTSIDE)])
    first = placed.in_window([1, 2], TILES, (0, 0))
    assert first.kinds.tolist() == [[[NOTHING, NOTHING]], [[INSIDE, OUTSIDE]]]
    assert first.places[1, 0].tolist() == [[9, 5], [1, 1]]
    second = placed.in_window([2], TILES, (8, 0))
    assert second.kinds.tolist() == [[[INSIDE]]] and second.places[0, 0].tolist() == [[1, 5]]


def test_a_box_is_in_every_slice_it_spans_and_is_cut_at_the_window():
    placed = make_placed(box=((1.0, 10.0, 2.0), (3.0, 15.0, 8.0)))
    clicks = placed.in_window([0, 1, 2, 3, 4], TILES, (0, 0))
    assert (clicks.kinds[:, 0, 0] == BOX_FIRST).tolist() == [False, True, True, True, False]
    assert clicks.kinds[2, 0].tolist() == [BOX_FIRST, BOX_LAST]
    assert clicks.places[2, 0].tolist() == [[10, 3], [11, 9]]
    assert placed.in_window([2], TILES, (8, 0)).places[0, 0].tolist() == [[2, 3], [7, 9]]
    above = make_placed(box=((1.0, 0.0, 2.0), (3.0, 5.0, 8.0)))
    assert above.in_window([2], TILES, (8, 0)).kinds.tolist() == [[[NOTHING]]]


@pytest.fixture
def placed_in(tiny_plans):
    """Place clicks on a scan of 4 x 20 x 30 voxels (z, y, x), 3 x 2 x 0.5 mm, to a grid of 3 x 1 x 1 mm."""

    def place(clicks):
        geometry = ImageGeometry.from_affine((4, 20, 30), np.diag([-0.5, 2, 3, 1]))
        case = preprocess_case([Scan(np.ones((4, 20, 30), np.float32), geometry)], plan=tiny_plans(2).data)
        assert case.image.shape == (1, 4, 40, 15)
        return place_clicks(clicks, names=["liver", "spleen"], transform=case.transform)

    return place


def test_voxels_reach_the_preprocessed_grid(placed_in):
    """Voxel i = 3 of 30 runs to the left: from the other end it is 26; its middle, 26.5 of 30, is 13.25 of 15."""
    placed = placed_in({"spleen": OrganClicks(inside=((3, 5, 2),), outside=((29, 0, 0),), box=((3, 5, 2), (5, 1, 1)))})
    assert placed.points[0] == () and placed.boxes[0] is None
    (inside, kind), (outside, other) = placed.points[1]
    assert (kind, other) == (INSIDE, OUTSIDE)
    assert inside == pytest.approx((2, 10.5, 12.75)) and outside == pytest.approx((0, 0.5, -0.25))
    low, high = placed.boxes[1]
    assert low == pytest.approx((1, 2.5, 11.75)) and high == pytest.approx((2, 10.5, 12.75))


def test_clicks_on_no_organ_or_outside_the_scan_are_refused(placed_in):
    with pytest.raises(UsageError, match="'kidney' is not among the organs asked for: liver, spleen"):
        placed_in({"kidney": OrganClicks(inside=((0, 0, 0),))})
    for voxel in ((30, 0, 0), (0, -1, 0), (0, 0, 4)):
        with pytest.raises(
            UsageError, match=r"clicks on 'liver': voxel .* outside the scan, whose shape is \(30, 20, 4"
        ):
            placed_in({"liver": OrganClicks(inside=(voxel,))})


def test_every_click_lies_on_the_voxel_that_it_names_whatever_the_orientation(tiny_plans):
    """A scan with one bright voxel: on the preprocessed grid of the same spacing it is where the click is."""
    plan = tiny_plans(1).data.model_copy(update={"target_spacing_zyx_mm": (1.0, 1.0, 1.0)})
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.diag(signs)[list(axes)]
            array = np.full((5, 6, 7), 0.5, np.float32)
            array[1, 4, 2] = 9.0
            scan = Scan(array, ImageGeometry.from_affine((5, 6, 7), affine))
            case = preprocess_case([scan], plan=plan)
            clicks = {"organ 0": OrganClicks(inside=((2, 4, 1),))}
            placed = place_clicks(clicks, names=["organ 0"], transform=case.transform)
            brightest = np.unravel_index(case.image[0].argmax(), case.image.shape[1:])
            assert placed.points[0][0][0] == pytest.approx(brightest)


def test_tensors_are_what_the_network_takes():
    clicks = make_placed(points=[((0.0, 1.0, 1.0), INSIDE)]).in_window([0], TILES, (0, 0))
    assert clicks.places.dtype == torch.float32 and clicks.kinds.dtype == torch.int64
