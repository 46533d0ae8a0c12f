import io

import numpy as np
import pytest
from PIL import Image

from autoseg.export.colors import as_bytes, organ_color
from autoseg.export.slice_pictures import as_grey, encode, fit, grey_range, organ_places, paint, resize


def test_grey_range_is_a_soft_tissue_window_for_ct_and_nearly_everything_else():
    assert grey_range(np.linspace(-1000, 2000, 1000).reshape(10, 10, 10)) == (-200.0, 300.0)
    low, high = grey_range(np.linspace(0, 1000, 1001)[:1000].reshape(10, 10, 10))
    assert (low, high) == (pytest.approx(5, abs=1), pytest.approx(995, abs=1))
    assert grey_range(np.full((2, 2, 2), 7.0)) == (7.0, 8.0)
    assert grey_range(np.full((2, 2, 2), np.nan)) == (0.0, 1.0)


def test_as_grey_clips_and_makes_nan_black():
    plane = np.array([[-5, 0, 50, 100, 900, np.nan]])
    assert as_grey(plane, (0, 100)).tolist() == [[0, 0, 128, 255, 255, 0]]


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [((10, 20), (1, 1), (50, 100)), ((10, 20), (4, 1), (100, 50)), ((1, 1), (1, 500), (1, 100))],
)
def test_fit_shows_millimeters_undistorted(shape, spacing, expected):
    assert fit(shape, spacing, most_px=(100, 100)) == expected


def test_labels_are_never_mixed_when_resized():
    labels = np.array([[0, 9], [9, 0]], np.uint16)
    assert resize(labels, (4, 2), is_labels=True).tolist() == [[0, 9], [0, 9], [9, 0], [9, 0]]
    assert resize(np.array([[0, 200]], np.uint8), (1, 1)).item() == 100


def test_paint_fills_lightly_and_draws_edges_in_full_color():
    organs = np.zeros((5, 5), np.uint8)
    organs[1:4, 1:4] = 2
    picture = paint(np.full((5, 5), 100, np.uint8), organs)
    color = np.array(as_bytes(organ_color(1)))
    assert picture[0, 0].tolist() == [100, 100, 100]
    assert picture[1, 1].tolist() == color.tolist()
    np.testing.assert_allclose(picture[2, 2], 100 + 0.35 * (color - 100), atol=1)


def test_organ_places_follow_the_order_of_the_values_and_others_are_background():
    labels = np.array([0, 7, 3, 9, 300], np.uint16)
    assert organ_places(labels, [3, 7]).tolist() == [0, 2, 1, 0, 0]
    assert organ_places(labels, [300]).tolist() == [0, 0, 0, 0, 1]
    assert organ_places(np.zeros(2, np.uint8), []).tolist() == [0, 0]


def test_encode_keeps_every_pixel_of_a_png():
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(picture)))), picture)
    assert Image.open(io.BytesIO(encode(picture[..., 0], form="JPEG"))).format == "JPEG"
