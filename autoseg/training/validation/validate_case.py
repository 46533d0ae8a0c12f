"""Predicts preprocessed cases whose reference is known, and measures their Dice.

Owns: `validate_case`, and the label maps of the final validation: `write_validation_map`, `clean_validation_map`.
Does not own: the counting (`confusion.py`), metrics on the scans' own grid (`evaluation/`, by `autoseg_evaluate`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.config.plans import Plans
from autoseg.inference.connected_components import clean_labels
from autoseg.inference.sliding_window import predict_slices
from autoseg.io.geometry import MM3_PER_ML
from autoseg.io.image import read_labels, write_label_map
from autoseg.preprocessing.inverse import undo_preprocessing
from autoseg.preprocessing.store import CaseStore
from autoseg.system.out_of_memory import MEMORY_ERRORS, halve
from autoseg.training.validation.component_filter_choice import OrganPieces, list_pieces
from autoseg.training.validation.confusion import CaseDice, ambiguous_labels, count_confusion, measure_dice

Result = TypeVar("Result")


def validate_case(
    network: nn.Module, store: CaseStore, case_id: str, *, plans: Plans, device: torch.device
) -> CaseDice:
    """Predict a preprocessed case slice by slice and return each organ's Dice.

    Raises:
        TrainingError: The device's memory is full even with one slice at a time.
    """
    reference = np.asarray(store.open_labels(case_id)[:])
    argmax = np.zeros_like(reference)

    def predict(plans: Plans) -> None:
        for _probs in _predict(network, store, case_id, argmax, plans=plans, device=device):
            pass

    _with_enough_memory(predict, plans, device=device)
    confusion = count_confusion(reference, argmax, plan=plans.data)
    return measure_dice(confusion, plan=plans.data, annotated=store.source(case_id).annotated)


def write_validation_map(
    network: nn.Module, store: CaseStore, case_id: str, *, plans: Plans, device: torch.device, folder: Path
) -> tuple[CaseDice, dict[str, OrganPieces]]:
    """Predict a case once, and write its unfiltered label map on the scan's own grid.

    Returns:
        The Dice as from `validate_case`, and the pieces of each annotated organ on the preprocessed grid.

    Raises:
        TrainingError: The device's memory is full even with one slice at a time.
    """
    data, transform, annotated = plans.data, store.read_transform(case_id), store.source(case_id).annotated
    reference = np.asarray(store.open_labels(case_id)[:])
    argmax = np.zeros_like(reference)
    names = {organ.value: organ.name for organ in data.organs}

    def predict(plans: Plans) -> np.ndarray:
        maps = _predict(network, store, case_id, argmax, plans=plans, device=device)
        return undo_preprocessing(maps, transform=transform, organ_values=list(names))

    labels = _with_enough_memory(predict, plans, device=device)
    write_label_map(folder / f"{case_id}.nii.gz", labels, geometry=transform.original, names=names)
    dice = measure_dice(count_confusion(reference, argmax, plan=data), plan=data, annotated=annotated)
    if annotated is not None:
        ambiguous = np.flatnonzero(ambiguous_labels(data, annotated))
        reference = np.where(np.isin(reference, ambiguous), np.iinfo(reference.dtype).max, reference)
    voxel_ml = float(np.prod(data.target_spacing_zyx_mm)) / MM3_PER_ML
    pieces = list_pieces(argmax, reference, names=list(names.values()), voxel_ml=voxel_ml)
    if annotated is not None:  # predictions of the other organs may be right
        pieces = {name: own for k, (name, own) in enumerate(pieces.items(), start=1) if k in annotated}
    return dice, pieces


def clean_validation_map(path: Path, *, plans: Plans) -> None:
    """Remove the components that the plan filters from a label map that was written."""
    scan = read_labels(path)
    labels = scan.array_zyx.copy()
    clean_labels(labels, plans=plans, geometry=scan.geometry)
    if not np.array_equal(labels, scan.array_zyx):
        names = {organ.value: organ.name for organ in plans.data.organs}
        write_label_map(path, labels, geometry=scan.geometry, names=names)


def _predict(
    network: nn.Module, store: CaseStore, case_id: str, argmax: np.ndarray, *, plans: Plans, device: torch.device
) -> Iterator[Tensor]:
    """Yield the probabilities of a case's slices, and write the most probable index of each voxel into `argmax`."""
    image = np.asarray(store.open_image(case_id)[:])
    modality = plans.data.modality_of(store.source(case_id).dataset)
    organs = [plans.data.text_row(organ, modality) for organ in range(len(plans.data.organs))]
    start = 0
    for probs in predict_slices([network], image, plans=plans, organs=organs, device=device):
        argmax[start : start + len(probs)] = probs.max(dim=1).indices.cpu().numpy()
        start += len(probs)
        yield probs


def _with_enough_memory(work: Callable[[Plans], Result], plans: Plans, *, device: torch.device) -> Result:
    """Do work; where the device's memory is full, start again with half as many slices at a time."""
    while True:
        try:
            return work(plans)
        except MEMORY_ERRORS as error:
            count = halve(plans.inference.slices_per_batch, error, device=device)
        plans = plans.model_copy(update={"inference": plans.inference.model_copy(update={"slices_per_batch": count})})
