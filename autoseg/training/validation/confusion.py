"""Dice of one case's organs and regions, from how often each reference label meets each predicted organ.

Owns: the table of meetings, and what of it counts in a case where not everything was annotated.
Does not own: predicting (`validate_case.py`), metrics on the scans' own grid (`evaluation/`).

Legend: K organs, G regions, L = 1 + K + G indices of a reference, 1 + K of a prediction.
"""

from collections.abc import Collection, Sequence

import numpy as np

from autoseg.config.plans import DataPlan
from autoseg.datasets.partial_labels import class_table, region_table

CaseDice = dict[str, float | None]


def new_confusion(plan: DataPlan) -> np.ndarray:
    """Return zeros, (L, 1 + K)."""
    return np.zeros((1 + len(plan.label_names), 1 + len(plan.organs)), dtype=np.int64)


def count_confusion(meetings: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> None:
    """Add voxels to the table; both arrays hold indices, and ignored voxels are none of them."""
    size = meetings.shape[1]
    pairs = reference.astype(np.int64) * size + predicted
    meetings += np.bincount(pairs.ravel(), minlength=meetings.size).reshape(meetings.shape)


def measure_dice(meetings: np.ndarray, *, plan: DataPlan, annotated: Collection[int] | None) -> CaseDice:
    """Return Dice by the name of each organ and region.

    One that is neither in the reference nor predicted has None, and one that was not annotated. A region is annotated
    too where all its organs are. Voxels that may or may not lie in an item, such as "kidney" in the left one, count
    nowhere in its Dice.

    Args:
        meetings: (L, 1 + K) voxels.
        plan: Organs and regions.
        annotated: Indices of what was annotated in the case; None: all organs.
    """
    labels = class_table(plan, annotated)  # (L, 1 + K)
    regions = region_table(plan)
    items = np.concatenate([np.eye(labels.shape[1], dtype=bool)[1:], regions])  # (K + G, 1 + K)
    is_in = ~(labels[:, None] & ~items).any(axis=2)  # (L, K + G): a voxel of the label lies in the item
    may_be = (labels[:, None] & items).any(axis=2) & ~is_in
    dice: CaseDice = {}
    for number, name in enumerate(plan.label_names):
        if not _is_annotated(number + 1, items=items, annotated=annotated):
            dice[name] = None
            continue
        rows, known, columns = is_in[:, number], ~may_be[:, number], items[number]
        total = meetings[rows].sum() + meetings[known][:, columns].sum()
        dice[name] = float(2 * meetings[rows][:, columns].sum() / total) if total else None
    return dice


def ambiguous_labels(plan: DataPlan, annotated: Collection[int] | None) -> np.ndarray:
    """Return (L,) True for indices that say of some organ neither that a voxel is it nor that it is not."""
    several: np.ndarray = class_table(plan, annotated).sum(axis=1) > 1
    several[0] = False  # background is counted: what was annotated is not in it
    return several


def _is_annotated(number: int, *, items: np.ndarray, annotated: Collection[int] | None) -> bool:
    """Return whether what was annotated inside an item, by its index, makes up all of it."""
    if annotated is None:
        return True
    own = items[[index - 1 for index in annotated]]  # (A, 1 + K)
    inside = own[~(own & ~items[number - 1]).any(axis=1)]
    return bool((inside.any(axis=0) == items[number - 1]).all())


def mean_dice(cases: Sequence[CaseDice]) -> CaseDice:
    """Average over the cases in which an organ counts; None where it counts in none."""
    means: CaseDice = {}
    for name in cases[0] if cases else ():
        values = [value for case in cases if (value := case[name]) is not None]
        means[name] = float(np.mean(values)) if values else None
    return means
