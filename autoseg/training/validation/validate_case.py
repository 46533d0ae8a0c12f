"""Validation on whole volumes, on the preprocessed grid.

Owns: Dice of the averaged network over cases, and the label maps of the final validation.
Does not own: metrics on the scans' own grid (`evaluation/`, by `autoseg_evaluate`).
"""

from collections.abc import Callable, Iterable, Iterator
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
from autoseg.training.data.case_arrays import Sliced
from autoseg.training.validation.component_filter_choice import OrganPieces, list_pieces
from autoseg.training.validation.confusion import (
    CaseDice,
    ambiguous_labels,
    count_confusion,
    measure_dice,
    new_confusion,
)

Result = TypeVar("Result")


def validate_case(
    network: nn.Module,
    store: CaseStore,
    case_id: str,
    *,
    plans: Plans,
    device: torch.device,
) -> CaseDice:
    """Predict a preprocessed case slice by slice and return each organ's Dice.

    An organ that is neither in the reference nor predicted has None; one that only one of both holds has 0.

    Raises:
        TrainingError: The device's memory is full even with one slice at a time.
    """

    def measure(plans: Plans) -> CaseDice:
        confusion = new_confusion(plans.data)
        maps = _predict(network, store, case_id, plans=plans, device=device)
        for _maps in _counting(maps, store.open_labels(case_id), confusion):
            pass
        return measure_dice(confusion, plan=plans.data, annotated=store.source(case_id).annotated)

    return _with_enough_memory(measure, plans, device=device)


def write_validation_map(
    network: nn.Module, store: CaseStore, case_id: str, *, plans: Plans, device: torch.device, folder: Path
) -> tuple[CaseDice, dict[str, OrganPieces]]:
    """Write a case's label map on the scan's own grid, from one prediction, nothing removed from it.

    Returns:
        What `validate_case` does, and the pieces of each annotated organ on the preprocessed grid.

    Raises:
        TrainingError: The device's memory is full even with one slice at a time.
    """

    def write(plans: Plans) -> tuple[CaseDice, dict[str, OrganPieces]]:
        return _write_map(network, store, case_id, plans=plans, device=device, folder=folder)

    return _with_enough_memory(write, plans, device=device)


def _write_map(
    network: nn.Module, store: CaseStore, case_id: str, *, plans: Plans, device: torch.device, folder: Path
) -> tuple[CaseDice, dict[str, OrganPieces]]:
    confusion = new_confusion(plans.data)
    reference = store.open_labels(case_id)
    argmax = np.zeros(reference.shape, reference.dtype)
    maps = _keeping(_predict(network, store, case_id, plans=plans, device=device), argmax)
    transform = store.read_transform(case_id)
    values = [organ.value for organ in plans.data.organs]
    labels = undo_preprocessing(_counting(maps, reference, confusion), transform=transform, organ_values=values)
    names = {organ.value: organ.name for organ in plans.data.organs}
    write_label_map(folder / f"{case_id}.nii.gz", labels, geometry=transform.original, names=names)
    voxel_ml = float(np.prod(plans.data.target_spacing_zyx_mm)) / MM3_PER_ML
    organs = [organ.name for organ in plans.data.organs]
    annotated = store.source(case_id).annotated
    known = np.asarray(reference[:])
    if annotated is not None:
        ambiguous = np.flatnonzero(ambiguous_labels(plans.data, annotated))
        known = np.where(np.isin(known, ambiguous), np.iinfo(known.dtype).max, known)
    pieces = list_pieces(argmax, known, names=organs, voxel_ml=voxel_ml)
    dice = measure_dice(confusion, plan=plans.data, annotated=annotated)
    if annotated is not None:  # what is found of the others may be right
        pieces = {name: pieces[name] for k, name in enumerate(organs, start=1) if k in annotated}
    return dice, pieces


def _with_enough_memory(work: Callable[[Plans], Result], plans: Plans, *, device: torch.device) -> Result:
    """Do work; where the device's memory is full, once more from its beginning with half as many slices at a time."""
    while True:
        try:
            return work(plans)
        except MEMORY_ERRORS as error:
            count = halve(plans.inference.slices_per_batch, error, device=device)
        plans = plans.model_copy(update={"inference": plans.inference.model_copy(update={"slices_per_batch": count})})


def clean_validation_map(path: Path, *, plans: Plans) -> None:
    """Remove the components that the plan filters from a label map that was written."""
    scan = read_labels(path)
    labels = scan.array_zyx.copy()
    clean_labels(labels, plans=plans, geometry=scan.geometry)
    if not np.array_equal(labels, scan.array_zyx):
        names = {organ.value: organ.name for organ in plans.data.organs}
        write_label_map(path, labels, geometry=scan.geometry, names=names)


def _predict(
    network: nn.Module,
    store: CaseStore,
    case_id: str,
    *,
    plans: Plans,
    device: torch.device,
) -> Iterator[Tensor]:
    image = np.asarray(store.open_image(case_id)[:])
    modality = plans.data.modality_of(store.source(case_id).dataset)
    organs = [plans.data.text_row(organ, modality) for organ in range(len(plans.data.organs))]
    return predict_slices([network], image, plans=plans, organs=organs, device=device)


def _counting(maps: Iterable[Tensor], labels: Sliced, confusion: np.ndarray) -> Iterator[Tensor]:
    """Pass the maps of slices on, and add their voxels to `confusion`; ignored voxels count nowhere."""
    start = 0
    for probs in maps:
        reference = np.asarray(labels[start : start + len(probs)])
        start += len(probs)
        is_known = reference != np.iinfo(reference.dtype).max
        count_confusion(confusion, reference[is_known], _argmax(probs)[is_known])
        yield probs


def _keeping(maps: Iterable[Tensor], argmax: np.ndarray) -> Iterator[Tensor]:
    """Pass the maps of slices on, and write into `argmax` which is the largest at each pixel."""
    start = 0
    for probs in maps:
        argmax[start : start + len(probs)] = _argmax(probs)
        start += len(probs)
        yield probs


def _argmax(probs: Tensor) -> np.ndarray:
    argmax: np.ndarray = probs.max(dim=1).indices.cpu().numpy()
    return argmax
