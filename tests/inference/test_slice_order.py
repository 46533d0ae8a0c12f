import numpy as np
import pytest
import torch

from autoseg.inference.slice_order import compare_slices, order_slices


def image_of(shifts, size=64):
    """One slice for each shift: the same bump, so many pixels from the middle."""
    rows, columns = np.mgrid[:size, :size]
    slices = [np.exp(-((rows - 32) ** 2 + (columns - 32 - shift) ** 2) / 60) for shift in shifts]
    return torch.from_numpy(np.stack(slices)[None]).float()


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("ascending", [0, 1, 2, 3, 4]),
        ("outwards", [2, 1, 3, 0, 4]),  # slice 2 lies in the middle of all
        ("similarity", [2, 3, 1, 4, 0]),  # the next nearest to any visited: 3 (3 px), 1 (4 px), 4 (6 px), 0 (7 px)
    ],
)
def test_slices_are_visited_in_the_planned_order(order, expected):
    assert order_slices(image_of([-11, -4, 0, 3, 9]), range(5), order=order) == expected


@pytest.mark.parametrize("order", ["outwards", "similarity"])
@pytest.mark.parametrize("slices", [range(0, 1), range(4, 6), range(3, 12), range(0, 12)])
def test_every_slice_asked_for_is_visited_once(order, slices):
    image = torch.randn(2, 12, 40, 24)
    assert sorted(order_slices(image[:, slices.start : slices.stop], slices, order=order)) == list(slices)


def test_comparison_is_correlation_and_blind_to_brightness():
    image = image_of([0, 4, 20])
    similarity = compare_slices(torch.cat([image, 3 * image[:, :1] + 7], dim=1))
    assert np.allclose(similarity.diagonal(), 1, atol=1e-5)
    assert similarity[0, 3] == pytest.approx(1, abs=1e-4)
    assert similarity[0, 1] > similarity[0, 2]


def test_slices_without_content_are_visited_too():
    assert sorted(order_slices(torch.zeros(1, 5, 20, 20), range(5), order="similarity")) == [0, 1, 2, 3, 4]
