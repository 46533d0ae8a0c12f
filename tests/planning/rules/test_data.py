import numpy as np
import pytest

from autoseg.planning.fingerprint.case_statistics import measure_intensities
from autoseg.planning.rules.data import (
    choose_crop,
    choose_normalization,
    choose_slice_axis,
    choose_target_spacing,
    to_slice_order,
)


def sizes(*rows):
    return np.array(rows)


def test_normalization_of_ct_takes_the_foreground_of_the_dataset():
    foreground = measure_intensities(np.arange(-100, 101, dtype=np.float64))
    choice = choose_normalization("CT", foreground=foreground, median_removed_fraction=0.5)
    assert (choice.value.normalization, choice.value.clip_low, choice.value.clip_high) == ("ct", -99.0, 99.0)
    assert choice.value.mean == 0.0
    assert choice.value.std == pytest.approx(np.sqrt((201**2 - 1) / 12))
    assert choice.facts["foreground"]["num_voxels"] == 201


@pytest.mark.parametrize(("removed", "inside"), [(0.25, False), (0.26, True)])
def test_normalization_of_mri_is_inside_the_mask_when_cropping_removed_over_a_quarter(removed, inside):
    choice = choose_normalization("MRI", foreground=None, median_removed_fraction=removed)
    assert (choice.value.normalization, choice.value.nonzero_only) == ("zscore", inside)


def test_normalization_of_a_ct_with_constant_foreground_stays_finite():
    foreground = measure_intensities(np.full(5, 40.0))
    assert choose_normalization("CT", foreground=foreground, median_removed_fraction=0).value.std > 0


def test_target_spacing_is_the_median_of_each_axis():
    spacings = np.array([[1.0, 0.5, 0.5], [2.0, 0.7, 0.6], [3.0, 0.9, 0.9]])
    choice = choose_target_spacing(spacings, cropped_sizes_zyx=sizes([200, 300, 300]))
    assert choice.value == (2.0, 0.7, 0.6)


def test_target_spacing_of_a_coarse_and_short_axis_is_its_10th_percentile():
    spacings = np.array([[z, 0.5, 0.5] for z in np.linspace(2, 6, 11)])
    choice = choose_target_spacing(spacings, cropped_sizes_zyx=sizes([30, 300, 300]))
    assert choice.value == pytest.approx((2.4, 0.5, 0.5))
    assert "10th percentile" in choice.rule


def test_target_spacing_of_a_coarse_axis_never_falls_below_the_others():
    spacings = np.array([[0.1, 1.0, 1.0], *([[5.0, 1.0, 1.0]] * 5)])
    choice = choose_target_spacing(spacings[[0, 0, 1, 2, 3, 4]], cropped_sizes_zyx=sizes([10, 300, 300]))
    assert choice.value == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("spacings", "size"),
    [
        ([[z, 0.5, 0.5] for z in (2, 4, 6)], [100, 299, 300]),  # coarse, but not short
        ([[z, 1.9, 1.9] for z in (2, 4, 6)], [30, 300, 300]),  # short, but not coarse
    ],
)
def test_target_spacing_needs_both_coarse_and_short_for_the_percentile(spacings, size):
    assert choose_target_spacing(np.array(spacings), cropped_sizes_zyx=sizes(size)).value[0] == 4


@pytest.mark.parametrize(
    ("spacing", "size", "axis"),
    [
        ((5.0, 0.8, 0.8), [40, 300, 300], "z"),
        ((0.8, 5.0, 0.8), [300, 40, 300], "y"),
        ((0.8, 0.8, 3.0), [300, 300, 60], "x"),
        ((1.0, 1.0, 1.0), [50, 50, 50], "z"),
        ((0.9, 1.1, 1.0), [50, 50, 50], "z"),  # nearly isotropic
        ((1.0, 1.0, 2.0), [1, 50, 50], "z"),  # a single slice along z
    ],
)
def test_slice_axis_is_the_coarsest_or_axial(spacing, size, axis):
    assert choose_slice_axis(spacing, cropped_sizes_zyx=sizes(size)).value == axis


def test_crop_tells_how_much_it_removes():
    choice = choose_crop(np.array([0.1, 0.5, 0.3]))
    assert choice.value is True
    assert choice.facts == {"median_removed_fraction": 0.3, "largest_removed_fraction": 0.5}


@pytest.mark.parametrize(("axis", "order"), [("z", [1, 2, 3]), ("y", [2, 1, 3]), ("x", [3, 1, 2])])
def test_to_slice_order_puts_the_slice_axis_first(axis, order):
    assert to_slice_order(np.array([[1, 2, 3]]), slice_axis=axis).tolist() == [order]
