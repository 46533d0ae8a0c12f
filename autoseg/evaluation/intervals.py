"""Computes confidence intervals of means over cases by a seeded percentile bootstrap.

Owns: `Interval`, `bootstrap_interval`, `mean_of_organ_means`.
"""

import warnings
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000  # the ends of the interval are then steady to about 1 % of its width
MAX_DRAWS_AT_ONCE = 4_000_000  # 32 MB of float64


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of the values."""

    low: float
    high: float


def bootstrap_interval(values: np.ndarray, *, rng: np.random.Generator) -> Interval | None:
    """Estimate the 95 % interval of `mean_of_organ_means` by resampling cases with replacement.

    Whole cases are drawn, so that the organs of one patient stay together. Percentile bootstrap: Efron & Tibshirani,
    "An introduction to the bootstrap", 1993, chapter 13.

    Args:
        values: (cases, organs), or (cases,) for one organ; NaN where an organ does not count in a case.
        rng: The random generator.

    Returns:
        The interval, or None with fewer than two cases that count.
    """
    table = _as_table(values)
    table = table[~np.isnan(table).all(axis=1)]
    if len(table) < 2:
        return None
    chunk = max(1, MAX_DRAWS_AT_ONCE // len(table))
    means: list[np.ndarray] = []
    for start in range(0, NUM_RESAMPLES, chunk):
        draws = rng.multinomial(
            len(table), np.full(len(table), 1 / len(table)), size=min(chunk, NUM_RESAMPLES - start)
        )  # (resamples, cases): how often each case was drawn
        means.append(_weighted_means(table, draws=draws.astype(float)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(low=float(low), high=float(high))


def mean_of_organ_means(values: np.ndarray) -> float | None:
    """Average each organ over the cases where it counts, then the organs; None where nothing counts.

    Args:
        values: (cases, organs), or (cases,) for one organ; NaN where an organ does not count in a case.
    """
    table = _as_table(values)
    if np.isnan(table).all():
        return None
    return float(_weighted_means(table, draws=np.ones((1, len(table))))[0])


def _as_table(values: np.ndarray) -> np.ndarray:
    table = np.asarray(values, dtype=float)
    return table[:, None] if table.ndim == 1 else table


def _weighted_means(table: np.ndarray, *, draws: np.ndarray) -> np.ndarray:
    counts = draws @ ~np.isnan(table)  # (resamples, organs)
    sums = draws @ np.nan_to_num(table)
    organ_means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    with warnings.catch_warnings():  # a draw without any case that counts gives NaN, which the percentile leaves out
        warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
        return np.nanmean(organ_means, axis=1)
