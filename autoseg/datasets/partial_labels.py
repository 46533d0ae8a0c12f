"""Resolves which classes a pixel of a preprocessed label map may have, given what was annotated in its case.

Owns: tables from index to the classes that a pixel may have; indices of names and of a dataset's values.
Does not own: the loss that uses them (`loss/targets.py`), how datasets map labels (`multi_dataset/label_mapping.py`).

Indices are those of `config/data.py`: 0 background, 1..K organs, K+1..K+G regions. Classes are background and the K
organs. In a case without the spleen annotated, a pixel of index 0 is background or spleen.

Legend: K organs of the plan, G its regions, L = 1 + K + G indices, A organs asked for, B slices.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.config.data import DataPlan
from autoseg.errors import DatasetError

IGNORE = -1


@dataclass(frozen=True)
class AskedLabels:
    """The labels of a batch with respect to the organs asked for.

    Attributes:
        labels: The labels as positions in `classes`, or IGNORE.
        classes: (B, P, 1 + A) True where a pixel of slice b with this label may have the class.
        regions: (G', 1 + A) True for the classes of each region whose organs are all asked for.
    """

    labels: np.ndarray
    classes: np.ndarray
    regions: np.ndarray


def region_table(plan: DataPlan) -> np.ndarray:
    """Return (G, 1 + K) True for the classes of each region."""
    names = [organ.name for organ in plan.organs]
    table = np.zeros((len(plan.regions), 1 + len(names)), bool)
    for row, region in zip(table, plan.regions, strict=True):
        row[[1 + names.index(name) for name in region.organs]] = True
    return table


def class_table(plan: DataPlan, annotated: Collection[int] | None) -> np.ndarray:
    """Return (L, 1 + K) True where a pixel with an index may have a class; a row of True means "unknown".

    Args:
        plan: The data part of the plan.
        annotated: The indices of the organs and regions that were annotated; None means all organs.

    Raises:
        DatasetError: There is no such index.
    """
    regions = region_table(plan)
    num_organs = len(plan.organs)
    rows = np.concatenate([np.eye(1 + num_organs, dtype=bool), regions])  # (L, 1 + K)
    if annotated is None:
        return rows
    if any(not 0 < index < len(rows) for index in annotated):
        raise DatasetError(
            f"a preprocessed case says that the labels {sorted(annotated)[:20]} were annotated in it; expected numbers "
            f"from 1 to {len(rows) - 1}. Delete the folder preprocessed of the run, and run autoseg_plan again."
        )
    known = np.zeros(len(rows), bool)
    known[list(annotated)] = True
    covered = rows[known].any(axis=0)  # (1 + K,)
    rows[0] = ~covered  # background is covered by none
    rows[1:][~known[1:]] = True
    return rows


def index_of_values(plan: DataPlan, dataset: str | None) -> dict[int, int]:
    """Return the index of each value in the label maps of a dataset; None stands for the plan's own values.

    Raises:
        KeyError: The plan has no such dataset.
    """
    if dataset is None:
        return {organ.value: index for index, organ in enumerate(plan.organs, start=1)}
    found = plan.find_dataset(dataset)
    if found is None:
        raise KeyError(dataset)
    places = {name: index for index, name in enumerate(plan.label_names, start=1)}
    return {label.value: 0 if label.maps_to is None else places[label.maps_to] for label in found.labels}


def annotated_indices(
    plan: DataPlan, dataset: str | None, labels: Collection[str] | None = None
) -> tuple[int, ...] | None:
    """Return the indices of what was annotated in a case, ascending; None if that is all organs of the plan.

    Args:
        plan: The data part of the plan.
        dataset: The name of the dataset of the case; None in a plan of one dataset.
        labels: The dataset's names of the labels that were annotated in the case; None means all of them.
    """
    found = plan.find_dataset(dataset)
    if found is None:
        names = {organ.name: organ.name for organ in plan.organs}
    else:
        names = {label.name: label.maps_to for label in found.labels if label.maps_to is not None}
    places = {name: index for index, name in enumerate(plan.label_names, start=1)}
    wanted = names if labels is None else [name for name in names if name in labels]
    indices = tuple(sorted({places[names[name]] for name in wanted}))
    return None if indices == tuple(range(1, len(plan.organs) + 1)) else indices


def ask_labels(
    labels: np.ndarray, *, tables: Sequence[np.ndarray], regions: np.ndarray, organs: np.ndarray
) -> AskedLabels:
    """Convert labels for the organs asked for; pixels of other organs become background.

    Args:
        labels: (B, R, W) indices, or IGNORE.
        tables: The result of `class_table` for the case of each slice.
        regions: The result of `region_table`.
        organs: (A,) positions in the plan, ascending.
    """
    num_organs = regions.shape[1] - 1
    asked = np.concatenate([[0], organs + 1])  # classes
    others = np.setdiff1d(np.arange(1 + num_organs), asked)
    is_whole = ~regions[:, others].any(axis=1)  # (G,)
    kept = np.concatenate([asked, 1 + num_organs + np.flatnonzero(is_whole)])
    present = np.unique(labels)
    kept = np.concatenate([kept, np.setdiff1d(present[present != IGNORE], kept)])
    full = np.stack(tables)[:, kept]  # (B, P, 1 + K)
    classes = full[..., asked]
    classes[..., 0] |= full[..., others].any(axis=-1)
    places = np.zeros(1 + num_organs + len(regions) + 1, dtype=np.int64)
    places[kept] = np.arange(len(kept))
    places[IGNORE] = IGNORE  # the last entry, which -1 indexes
    return AskedLabels(places[labels], classes, regions[is_whole][:, asked])
