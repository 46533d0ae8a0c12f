"""Contains the rules for several datasets in one plan: sampling fractions, weights of cases, windows for small scans.

Owns: one pure function per rule; each returns a `Choice`.
Does not own: the rules that also apply to a single dataset (`data.py`, `network.py`, `training.py`).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from autoseg.config.plans import DatasetSamplingFraction, OrganSamplingWeight
from autoseg.planning.fingerprint.case_statistics import IntensityStatistics
from autoseg.planning.rules.choice import Choice

MOST_SHARE_OF_WINDOW = 0.5  # of the area of the largest, above which a smaller window saves little
ALIKE_WINDOWS_RATIO = 1.5  # of two areas, below which the larger one serves for both
WINDOW_STEP_PX = 16
MAX_SMALL_WINDOWS = 8
MAX_ORGANS_SHOWN = 20


def choose_dataset_sampling_fractions(
    num_cases: Mapping[str, int], *, modality_of: Mapping[str, str]
) -> Choice[tuple[DatasetSamplingFraction, ...]]:
    """Choose how often a training step sees each dataset.

    Args:
        num_cases: The number of usable cases of each dataset.
        modality_of: The modality of each dataset.
    """
    roots = {name: math.sqrt(count) for name, count in num_cases.items()}
    of_modality: dict[str, float] = {}
    for name, root in roots.items():
        of_modality[modality_of[name]] = of_modality.get(modality_of[name], 0.0) + root
    raw = {name: root / math.sqrt(of_modality[modality_of[name]]) for name, root in roots.items()}
    fractions = {name: value / sum(raw.values()) for name, value in raw.items()}
    rule = (
        "Between as often as it has cases and as often as all others: the square root of its number of cases, and of "
        "the modalities the square root of what theirs add up to, so that neither many scans of one kind drown the "
        "others nor a few are seen over and over."
    )
    facts = {"cases": dict(num_cases), "modality": dict(modality_of)}
    value = tuple(DatasetSamplingFraction(dataset=name, fraction=round(share, 4)) for name, share in fractions.items())
    return Choice(value, rule, facts)


def choose_organ_sampling_weights(num_cases: Mapping[str, int]) -> Choice[tuple[OrganSamplingWeight, ...]]:
    """Choose the organs for which slices are drawn more often: none, since all are drawn equally often already.

    Args:
        num_cases: The number of cases that contain each organ.
    """
    rule = (
        "None: of the slices that are drawn for an organ (foreground_oversampling) every organ of the step's dataset "
        "gets as many, however few cases and slices hold it. That is what balances rare organs."
    )
    rarest = sorted(num_cases.items(), key=lambda item: (item[1], item[0]))[:MAX_ORGANS_SHOWN]
    return Choice((), rule, {"cases_of_the_rarest": dict(rarest)})


def choose_small_windows(
    sizes_px: Mapping[str, np.ndarray], *, window_px: tuple[int, int], step_px: int
) -> Choice[tuple[tuple[int, int], ...]]:
    """Choose more windows, for datasets whose slices are much smaller than the window.

    Args:
        sizes_px: (N, 2) rows and columns of each dataset's cropped cases at target spacing.
        window_px: The largest window.
        step_px: The sides are multiples of this, and at least twice as long.
    """
    area = window_px[0] * window_px[1]
    step = math.lcm(WINDOW_STEP_PX, step_px)
    wanted = set()
    for sizes in sizes_px.values():
        most = np.percentile(sizes, 95, axis=0)
        rows, columns = (max(2 * step_px, step * math.ceil(float(size) / step - 1e-6)) for size in most)
        if rows * columns <= MOST_SHARE_OF_WINDOW * area and rows <= window_px[0] and columns <= window_px[1]:
            wanted.add((rows, columns))
    kept: list[tuple[int, int]] = []
    for one in sorted(wanted, key=lambda window: (-window[0] * window[1], window)):
        kept += [] if any(_serves(larger, one) for larger in kept) else [one]
    facts = {
        "window_px": list(window_px),
        "percentile_95_size_px": {
            name: [round(float(side), 1) for side in np.percentile(sizes, 95, axis=0)]
            for name, sizes in sizes_px.items()
        },
    }
    if len(sizes_px) < 2:
        return Choice((), "None: a single dataset has a single window.", facts)
    rule = (
        "For datasets whose slices (95th percentile) fit into at most half of the window: a step with them costs what "
        "their own window costs, and they fill the square that the Hiera sees."
    )
    return Choice(tuple(sorted(kept[:MAX_SMALL_WINDOWS])), rule, facts)


def _serves(larger: tuple[int, int], smaller: tuple[int, int]) -> bool:
    """Return whether a window contains another and is hardly larger, so that one is enough."""
    holds = larger[0] >= smaller[0] and larger[1] >= smaller[1]
    return holds and larger[0] * larger[1] < ALIKE_WINDOWS_RATIO * smaller[0] * smaller[1]


def weigh_cases(datasets: Sequence[str | None], *, fractions: Mapping[str, float]) -> np.ndarray | None:
    """Return (N,) weights of cases, so that each dataset has its fraction of the weight; None for a single dataset."""
    if not fractions:
        return None
    counts = {name: sum(dataset == name for dataset in datasets) for name in fractions}
    return np.array([fractions[name or ""] / counts[name or ""] for name in datasets])


def weighted_median(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Return the (weighted) median over the rows of (N, M), of shape (M,)."""
    if weights is None:
        return np.asarray(np.median(values, axis=0))
    result = []
    for column in values.T:
        order = np.argsort(column, kind="stable")
        reached = np.cumsum(weights[order]) / weights.sum()
        result.append(column[order][int(np.searchsorted(reached, 0.5 - 1e-9))])
    return np.array(result)


def pool_intensities(facts: Sequence[IntensityStatistics]) -> IntensityStatistics:
    """Join the intensities of several datasets with equal weights; the clipping range contains that of each."""
    means = np.array([one.mean for one in facts])
    squares = np.array([one.std**2 + one.mean**2 for one in facts])
    mean = float(means.mean())
    return IntensityStatistics(
        num_voxels=sum(one.num_voxels for one in facts),
        minimum=min(one.minimum for one in facts),
        maximum=max(one.maximum for one in facts),
        mean=mean,
        std=float(np.sqrt(max(0.0, squares.mean() - mean**2))),
        percentile_00_5=min(one.percentile_00_5 for one in facts),
        median=float(np.mean([one.median for one in facts])),
        percentile_99_5=max(one.percentile_99_5 for one in facts),
    )
