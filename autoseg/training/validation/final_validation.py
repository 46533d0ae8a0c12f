"""Validates a trained fold on all cases that it left out, and applies what follows from that to the model.

Owns: `validate_fold`.
Does not own: the prediction of a case (`validate_case.py`), which connected components are removed
(`component_filter_choice.py`).
"""

import logging
from collections.abc import Mapping
from typing import Any

from autoseg.config.plans import SET_BY, Plans
from autoseg.network.weights.model_file import MODEL_FILE_NAME, save_model
from autoseg.system.atomic_files import write_json
from autoseg.system.progress import track
from autoseg.training.context import TrainingContext
from autoseg.training.folds import read_folds
from autoseg.training.state import TrainState
from autoseg.training.validation.component_filter_choice import (
    OrganPieces,
    choose_component_filter,
    dice_after,
    read_pieces,
    write_pieces,
)
from autoseg.training.validation.confusion import CaseDice, mean_dice
from autoseg.training.validation.validate_case import clean_validation_map, write_validation_map

log = logging.getLogger("autoseg")


def validate_fold(state: TrainState, context: TrainingContext) -> CaseDice:
    """Predict every case that was left out, with mirroring as in prediction; write label maps and `summary.json`.

    Small connected components whose removal raises Dice are removed from the maps, and by the model from then on.

    Returns:
        Mean Dice by organ; empty where no case was left out.
    """
    data, plans = context, context.plans
    if data.seen_in_training or not data.validation_cases:
        if data.ranks.is_main:
            log.info("every case was trained on, so there is none to validate on%s", _how_to_validate(data))
            _clean_as_validated(state, data, plans=plans)
        return {}
    device = next(state.averaged.parameters()).device
    folder = data.folder / "validation"
    own: dict[str, tuple[CaseDice, dict[str, OrganPieces]]] = {}
    for case_id in track(data.ranks.shard(data.validation_cases), what="validating"):
        own[case_id] = write_validation_map(
            state.averaged, data.store, case_id, plans=plans, device=device, folder=folder
        )
    cases, pieces = _gather(own, data)
    if data.ranks.is_main:
        write_pieces(folder, pieces, plans=plans)
        plans = _clean_as_validated(state, data, plans=plans)
    plans = data.ranks.broadcast(plans)  # the main rank alone has read what other folds found
    for case_id in own:
        clean_validation_map(folder / f"{case_id}.nii.gz", plans=plans)
    means = mean_dice(list(cases.values()))
    cleaned = mean_dice(
        [{**dice, **dice_after(pieces[case], plans.inference.component_filter)} for case, dice in cases.items()]
    )
    summary: dict[str, Any] = {
        "grid": "preprocessed",
        "mean_dice": cleaned,
        "mean_dice_uncleaned": means,
        "cases": cases,
    }
    data.ranks.barrier()  # until all maps are cleaned
    if data.ranks.is_main:
        write_json(folder / "summary.json", summary)
    return cleaned


def _gather(
    own: Mapping[str, tuple[CaseDice, dict[str, OrganPieces]]], data: TrainingContext
) -> tuple[dict[str, CaseDice], dict[str, dict[str, OrganPieces]]]:
    """Return what all ranks found, in the order of the fold's cases."""
    found = {case_id: both for of_rank in data.ranks.all_gather(own) for case_id, both in of_rank.items()}
    cases = data.validation_cases
    return {case_id: found[case_id][0] for case_id in cases}, {case_id: found[case_id][1] for case_id in cases}


def _how_to_validate(data: TrainingContext) -> str:
    """Say how cases are left out of training, where the run has folds that leave any out."""
    folds = read_folds(data.folder.parent / "splits.json", stored=set(data.store.case_ids()))
    if not any(one.validation for one in folds):
        return ": the run has a single case, or cases of one patient"
    return f"; --fold 0 leaves one part in {len(folds)} out"


def _clean_as_validated(state: TrainState, data: TrainingContext, *, plans: Plans) -> Plans:
    """Write the model again with the filter that all validations of the run support; a user's own stays."""
    pieces = read_pieces(data.folder.parent, plans=plans)
    planned = plans.reasons.get("inference.component_filter")
    if not pieces or (planned is not None and planned.rule.startswith(SET_BY)):
        return plans
    names = [organ.name for organ in plans.data.organs]
    chosen, reason = choose_component_filter(pieces, names=names, planned=plans.inference.component_filter)
    inference = plans.inference.model_copy(update={"component_filter": chosen})
    reasons = {**plans.reasons, "inference.component_filter": reason}
    plans = plans.model_copy(update={"inference": inference, "reasons": reasons})
    save_model(state.averaged, plans, data.folder / MODEL_FILE_NAME)
    return plans
