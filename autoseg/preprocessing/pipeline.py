"""Preprocesses a whole scan for the store, with its labels as organ indices.

Owns: `preprocess_case`.
Does not own: the steps for the image (`slices.py`), the grid (`transform.py`), interpolation (`resampling.py`), files,
the inverse, which works on the network's device (`inverse.py`).

Symbols: C channels, K organs, S slices, R rows, W columns of the preprocessed grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.config.plans import DataPlan
from autoseg.datasets.partial_labels import index_of_values
from autoseg.errors import DatasetError
from autoseg.io.image import Scan
from autoseg.preprocessing.resampling import resample_labels
from autoseg.preprocessing.slices import prepare_slices
from autoseg.preprocessing.transform import CaseTransform


@dataclass(frozen=True)
class CaseSource:
    """The origin of a case.

    Attributes:
        dataset: The name of its dataset; None in a plan of one dataset.
        annotated: The indices of the organs and regions that were annotated; None means all organs.
    """

    dataset: str | None = None
    annotated: tuple[int, ...] | None = None


@dataclass(frozen=True)
class PreprocessedCase:
    """One case as the network sees it.

    Attributes:
        image: (C, S, R, W) float32, near zero mean.
        labels: (S, R, W) indices of organs and regions, uint8 (ignored: 255) up to 254 of them, else uint16 (65535);
            None if unknown.
        transform: The transform between the file grid and the preprocessed grid.
        source: The origin of the case.
    """

    image: np.ndarray
    labels: np.ndarray | None
    transform: CaseTransform
    source: CaseSource = CaseSource()


def preprocess_case(
    channels: Sequence[Scan], *, plan: DataPlan, labels: Scan | None = None, source: CaseSource = CaseSource()
) -> PreprocessedCase:
    """Bring the channels of one scan, and its label map if there is one, to the plan's grid.

    Args:
        channels: One scan per channel, all on the same grid.
        plan: The data part of the plan.
        labels: The label map, with the values of its dataset.
        source: The origin of the case.

    Raises:
        DatasetError: The number of channels is not the plan's, the grids differ in shape, or a label value is unknown.
        PlanError: The target spacing would make the grid impossibly large.
    """
    _check_shapes(channels, labels)
    slices = prepare_slices(channels, plan=plan, modality=plan.modality_of(source.dataset))
    image = slices[:, : slices.shape[1]]
    if labels is None:
        return PreprocessedCase(image, None, slices.transform, source)
    indices = to_organ_indices(slices.transform.view(labels.array_zyx), plan=plan, dataset=source.dataset)
    resampled = resample_labels(indices, slices.transform.resampled_shape)
    return PreprocessedCase(image, np.ascontiguousarray(resampled), slices.transform, source)


def to_organ_indices(labels: np.ndarray, *, plan: DataPlan, dataset: str | None = None) -> np.ndarray:
    """Convert the values of a dataset to indices: 0, those of `plan.label_names` from 1, or the ignored index.

    Raises:
        DatasetError: A value is neither 0, nor named in the dataset, nor the ignored one.
    """
    index_of = {0: 0, **index_of_values(plan, dataset)}
    dtype = index_dtype(len(plan.label_names))
    declared = plan.find_dataset(dataset)
    ignore_value = plan.ignore_value if declared is None else declared.ignore_value
    if ignore_value is not None:
        index_of[ignore_value] = int(np.iinfo(dtype).max)
    known, indices = list(index_of), np.array(list(index_of.values()), dtype)
    table = np.zeros(max(known) + 2, dtype)  # the last entry stands for every larger value
    is_known = np.zeros(table.size, bool)
    table[known], is_known[known] = indices, True
    if labels.size and labels.min() < 0:
        raise _unknown_values(labels[labels < 0], known=known)
    positions = labels if np.iinfo(labels.dtype).max < table.size else np.minimum(labels, table.size - 1)
    found = is_known[positions]
    if not found.all():
        raise _unknown_values(labels[~found], known=known)
    return table[positions]


def index_dtype(num_labels: int) -> type[np.uint8] | type[np.uint16]:
    """Return the type of indices of organs and regions; its largest value is the ignored index."""
    return np.uint8 if num_labels <= 254 else np.uint16


def _check_shapes(channels: Sequence[Scan], labels: Scan | None) -> None:
    shape = channels[0].array_zyx.shape
    if labels is not None and labels.array_zyx.shape != shape:
        raise DatasetError(
            f"channels and labels of one case differ in shape_zyx: {shape} and {labels.array_zyx.shape}. "
            "Resample one of them."
        )


def _unknown_values(unknown: np.ndarray, *, known: Sequence[int]) -> DatasetError:
    values, counts = np.unique(unknown, return_counts=True)
    listed = ", ".join(f"{value} ({count} voxels)" for value, count in zip(values[:8], counts[:8], strict=True))
    return DatasetError(f"the label map holds {listed}; known are {sorted(known)[:20]}. Name them in dataset.json.")
