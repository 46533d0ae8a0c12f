"""Dice of one case's organs and regions, from how often each reference label meets each predicted organ.

Owns: the table of meetings, and what of it counts in a case where not everything was annotated.
Does not own: predicting (`validation.py`), metrics on the scans' own grid (`evaluation/`).

Legend: K organs, G regions, L = 1 + K + G indices of a reference, 1 + K of a prediction.
"""

from collections.abc import Collection, Sequence

import numpy as np

from autoseg.label_sets import class_table, region_table
from autoseg.plans import DataPlan

CaseDice = dict[str, float | None]


def new_meetings(plan: DataPlan) -> np.ndarray:
    """Return zeros, (L, 1 + K)."""
    return np.zeros((1 + len(plan.label_names), 1 + len(plan.organs)), dtype=np.int64)


def count_meetings(meetings: np.ndarray, reference: np.ndarray, predicted: np.ndarray) -> None:
    """Add voxels to the table; both arrays hold indices, and ignored voxels are none of them."""
    size = meetings.shape[1]
    pairs = reference.astype(np.int64) * size + predicted
    meetings += np.bincount(pairs.ravel(), minlength=meetings.size).reshape(meetings.shape)


def measure_dice(meetings: np.ndarray, *, plan: DataPlan, annotated: Collection[int] | None) -> CaseDice:
    """Return Dice by the name of each organ and region.

    One that is neither in the reference nor predicted has None, and one that was not annotated. A region is annotated
    too where all its organs are.

    Args:
        meetings: (L, 1 + K) voxels.
        plan: Organs and regions.
        annotated: Indices of what was annotated in the case; None: all organs.
    """
    tables = class_table(plan, annotated)
    regions = region_table(plan)
    items = np.concatenate([np.eye(tables.shape[1], dtype=bool)[1:], regions])  # (K + G, 1 + K)
    inside = ~(tables[:, None] & ~items).any(axis=2)  # (L, K + G): a voxel of this label lies in the item
    organs = range(1, 1 + len(plan.organs)) if annotated is None else annotated
    known = _list_known(regions, organs=organs)
    dice: CaseDice = {}
    for number, name in enumerate(plan.label_names):
        if number + 1 not in known:
            dice[name] = None
            continue
        rows, columns = inside[:, number], items[number]
        total = meetings[rows].sum() + meetings[:, columns].sum()
        dice[name] = float(2 * meetings[rows][:, columns].sum() / total) if total else None
    return dice


def mean_dice(cases: Sequence[CaseDice]) -> CaseDice:
    """Average over the cases in which an organ counts; None where it counts in none."""
    means: CaseDice = {}
    for name in cases[0] if cases else ():
        values = [value for case in cases if (value := case[name]) is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def _list_known(regions: np.ndarray, *, organs: Collection[int]) -> set[int]:
    """Return the indices of what was annotated, and of the regions whose organs all were."""
    num_organs = regions.shape[1] - 1
    whole = (
        1 + num_organs + number
        for number, row in enumerate(regions)
        if set(np.flatnonzero(row).tolist()) <= set(organs)
    )
    return {*organs, *whole}
