import numpy as np
import pytest

from autoseg.evaluation import intervals
from autoseg.evaluation.intervals import bootstrap_interval, mean_of_organ_means


def rng(seed=0):
    return np.random.default_rng(seed)


def test_bootstrap_interval_holds_the_mean_and_stays_inside_the_values():
    values = rng(1).uniform(0.5, 1.0, size=30)
    interval = bootstrap_interval(values, rng=rng())
    assert values.min() < interval.low < values.mean() < interval.high < values.max()


def test_bootstrap_interval_normal_values_is_near_the_formula():
    values = rng(2).normal(0.8, 0.1, size=400)
    interval = bootstrap_interval(values, rng=rng())
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_bootstrap_interval_is_seeded():
    values = rng(3).random(10)
    assert bootstrap_interval(values, rng=rng(5)) == bootstrap_interval(values, rng=rng(5))
    assert bootstrap_interval(values, rng=rng(5)) != bootstrap_interval(values, rng=rng(6))


def test_bootstrap_interval_fewer_than_two_cases_is_none():
    assert bootstrap_interval(np.array([0.5]), rng=rng()) is None
    assert bootstrap_interval(np.array([0.5, np.nan]), rng=rng()) is None
    assert bootstrap_interval(np.zeros((0, 3)), rng=rng()) is None


def test_bootstrap_interval_equal_cases_has_no_width():
    interval = bootstrap_interval(np.full((5, 2), 0.75), rng=rng())
    assert (interval.low, interval.high) == pytest.approx((0.75, 0.75))


def test_bootstrap_interval_organs_of_one_case_are_drawn_together():
    # Two organs that always cancel: the mean of both is 0.5 in every case, so drawing whole cases has no spread.
    organ = rng(4).random(20)
    interval = bootstrap_interval(np.stack([organ, 1 - organ], axis=1), rng=rng())
    assert (interval.low, interval.high) == pytest.approx((0.5, 0.5))


def test_bootstrap_interval_rare_organ_missing_from_draws_gives_numbers():
    table = np.full((3, 2), np.nan)
    table[:, 0] = [0.2, 0.4, 0.6]
    table[0, 1] = 1.0
    interval = bootstrap_interval(table, rng=rng())
    assert 0.2 <= interval.low <= interval.high <= 1.0


def test_bootstrap_interval_in_chunks_is_still_close(monkeypatch):
    values = rng(7).random(50)
    whole = bootstrap_interval(values, rng=rng())
    monkeypatch.setattr(intervals, "MAX_DRAWS_AT_ONCE", 350)
    assert bootstrap_interval(values, rng=rng()) == whole


def test_mean_of_organ_means_weighs_organs_equally_by_hand():
    table = np.array([[1.0, 0.0], [0.5, np.nan], [0.0, np.nan]])
    assert mean_of_organ_means(table) == pytest.approx((0.5 + 0.0) / 2)
    assert mean_of_organ_means(table.T) == pytest.approx((0.5 + 0.5 + 0.0) / 3)


def test_mean_of_organ_means_nothing_counts_is_none():
    assert mean_of_organ_means(np.array([[np.nan]])) is None
    assert mean_of_organ_means(np.zeros((0, 0))) is None
