"""Computes the Dice of one case's organs and regions from its confusion matrix.

Owns: the confusion matrix, and which of its entries count in a case where not everything was annotated.
Does not own: predicting (`validate_case.py`), metrics on the scans' own grid (`evaluation/`).

Legend: K organs, G regions, L = 1 + K + G indices of a reference, 1 + K of a prediction.
"""

from collections.abc import Collection, Sequence

import numpy as np

from autoseg.config.plans import DataPlan
from autoseg.datasets.partial_labels import class_table, region_table

CaseDice = dict[str, float | None]


def count_confusion(reference: np.ndarray, predicted: np.ndarray, *, plan: DataPlan) -> np.ndarray:
    """Count the (L, 1 + K) pairs of reference and predicted index; voxels that the reference ignores are left out."""
    shape = (1 + len(plan.label_names), 1 + len(plan.organs))
    is_known = reference != np.iinfo(reference.dtype).max
    pairs = reference[is_known].astype(np.int64) * shape[1] + predicted[is_known]
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def measure_dice(confusion: np.ndarray, *, plan: DataPlan, annotated: Collection[int] | None) -> CaseDice:
    """Return Dice by the name of each organ and region.

    It is None for an item that is neither in the reference nor predicted, and for one that was not annotated. A region
    counts as annotated where all its organs are. Voxels that may or may not lie in an item ("kidney" for the left
    kidney) are left out of its Dice.

    Args:
        confusion: The (L, 1 + K) matrix of `count_confusion`.
        plan: The organs and regions.
        annotated: The indices that were annotated in the case; None: all organs.
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
        total = confusion[rows].sum() + confusion[known][:, columns].sum()
        dice[name] = float(2 * confusion[rows][:, columns].sum() / total) if total else None
    return dice


def ambiguous_labels(plan: DataPlan, annotated: Collection[int] | None) -> np.ndarray:
    """Return (L,) True for indices that leave open whether a voxel is some organ."""
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
