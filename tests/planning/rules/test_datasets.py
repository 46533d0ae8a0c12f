import numpy as np
import pytest

from autoseg.planning.fingerprint.case_statistics import measure_intensities
from autoseg.planning.rules.datasets import (
    choose_dataset_sampling_fractions,
    choose_organ_sampling_weights,
    choose_small_windows,
    pool_intensities,
    weigh_cases,
    weighted_median,
)


def shares(num_cases, **modalities):
    choice = choose_dataset_sampling_fractions(num_cases, modality_of=modalities)
    return {one.dataset: one.fraction for one in choice.value}


def test_shares_of_one_modality_are_as_the_roots_of_the_cases():
    """Roots 10, 2 and 4 of 16."""
    found = shares({"A": 100, "B": 4, "C": 16}, A="ct", B="ct", C="ct")
    assert found == {"A": 0.625, "B": 0.125, "C": 0.25}


def test_shares_of_modalities_are_as_the_roots_of_what_theirs_add_up_to():
    """CT has roots 12 + 4 = 16, MRI 4: 4 against 2 of all, and CT's 4 parted as 12 to 4."""
    found = shares({"A": 144, "B": 16, "C": 16}, A="ct", B="ct", C="mri")
    assert found == pytest.approx({"A": 0.5, "B": 1 / 6, "C": 1 / 3}, abs=1e-4)


def test_organ_weights_are_none_and_the_reason_names_the_rarest():
    choice = choose_organ_sampling_weights({"liver": 10, "spleen": 2, "kidney": 2})
    assert choice.value == ()
    assert list(choice.facts["cases_of_the_rarest"]) == ["kidney", "spleen", "liver"]


def windows(window=(512, 512), step=8, **sizes):
    arrays = {name: np.array([size]) for name, size in sizes.items()}
    return choose_small_windows(arrays, window_px=window, step_px=step).value


def test_small_windows_are_for_datasets_that_need_at_most_half_of_the_window():
    assert windows(A=(500, 500), B=(40, 60), C=(300, 400)) == ((48, 64), (304, 400))
    assert windows(A=(500, 500), B=(400, 400)) == ()
    assert windows(A=(500, 500)) == ()


def test_small_windows_are_multiples_of_what_the_refiner_needs_and_at_least_two_of_them():
    assert windows(step=64, A=(500, 500), B=(20, 70)) == ((128, 128),)
    assert windows(step=24, A=(500, 500), B=(40, 60)) == ((48, 96),)


def test_small_windows_that_are_nearly_alike_are_one():
    assert windows(A=(500, 500), B=(64, 64), C=(64, 80)) == ((64, 80),)
    assert windows(A=(500, 500), B=(64, 64), C=(64, 160)) == ((64, 64), (64, 160))


def test_small_windows_in_small_steps_do_not_all_give_way_to_the_largest():
    """Each of these is under 1.5 times the one before, but the largest has nearly three times the area of the first."""
    sizes = {"B": (48, 48), "C": (48, 64), "D": (64, 64), "E": (64, 80), "F": (80, 80)}
    assert windows(A=(500, 500), **sizes) == ((48, 48), (64, 64), (80, 80))


def test_small_windows_are_at_most_eight():
    sizes = {f"D{k}": (16 * 2**k, 16) for k in range(5)} | {f"E{k}": (16, 32 * 2**k) for k in range(5)}
    assert len(windows(step=8, A=(512, 512), **sizes)) == 8


def test_weigh_cases_lets_a_dataset_weigh_its_share():
    weights = weigh_cases(["A", "A", "B"], fractions={"A": 0.4, "B": 0.6})
    assert weights.tolist() == pytest.approx([0.2, 0.2, 0.6])
    assert weigh_cases([None, None], fractions={}) is None


def test_weighted_median_is_where_half_of_the_weight_is_reached():
    values = np.array([[1.0, 5.0], [2.0, 4.0], [9.0, 3.0]])
    assert weighted_median(values, None).tolist() == [2.0, 4.0]
    assert weighted_median(values, np.array([1.0, 1.0, 1.0])).tolist() == [2.0, 4.0]
    assert weighted_median(values, np.array([0.2, 0.2, 0.6])).tolist() == [9.0, 3.0]
    assert weighted_median(values, np.array([0.6, 0.2, 0.2])).tolist() == [1.0, 5.0]


def test_pool_intensities_lets_each_dataset_count_alike_and_clips_none_closer():
    one, other = measure_intensities(np.array([0.0, 2.0])), measure_intensities(np.full(1000, 5.0))
    both = pool_intensities([one, other])
    assert (both.num_voxels, both.minimum, both.maximum, both.mean) == (1002, 0.0, 5.0, 3.0)
    assert both.std == pytest.approx(np.std([0, 2, 5, 5]))
    assert (both.percentile_00_5, both.percentile_99_5) == (one.percentile_00_5, 5.0)
