"""Validates a trained fold on all cases that it left out, and chooses the component filter of its model.

Owns: `validate_fold`.
Does not own: the prediction of a case (`validate_case.py`), which connected components are removed
(`component_filter_choice.py`).
"""

import logging

from autoseg.config.plans import SET_BY, Plans
from autoseg.network.weights.model_file import MODEL_FILE_NAME, save_model
from autoseg.system.atomic_files import write_json
from autoseg.system.progress import track
from autoseg.training.context import TrainingContext
from autoseg.training.folds import read_folds
from autoseg.training.state import TrainState
from autoseg.training.validation.component_filter_choice import (
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
    plans, ranks, cases = context.plans, context.ranks, context.validation_cases
    if context.seen_in_training or not cases:
        if ranks.is_main:
            log.info("every case was trained on, so there is none to validate on%s", _how_to_validate(context))
            _choose_filter(state, context)
        return {}
    device, folder = next(state.averaged.parameters()).device, context.folder / "validation"
    own = {
        case: write_validation_map(state.averaged, context.store, case, plans=plans, device=device, folder=folder)
        for case in track(ranks.shard(cases), what="validating")
    }
    found = {case: both for of_rank in ranks.all_gather(own) for case, both in of_rank.items()}
    dice = {case: found[case][0] for case in cases}
    pieces = {case: found[case][1] for case in cases}
    if ranks.is_main:
        write_pieces(folder, pieces, plans=plans)
        plans = _choose_filter(state, context)
    plans = ranks.broadcast(plans)  # rank 0 alone has read what other folds found
    for case in own:
        clean_validation_map(folder / f"{case}.nii.gz", plans=plans)
    cleaned = mean_dice(
        [{**dice[case], **dice_after(pieces[case], plans.inference.component_filter)} for case in cases]
    )
    summary = {
        "grid": "preprocessed",
        "mean_dice": cleaned,
        "mean_dice_uncleaned": mean_dice(list(dice.values())),
        "cases": dice,
    }
    ranks.barrier()  # until all maps are cleaned
    if ranks.is_main:
        write_json(folder / "summary.json", summary)
    return cleaned


def _how_to_validate(context: TrainingContext) -> str:
    """Say how cases are left out of training, where the run has folds that leave any out."""
    folds = read_folds(context.folder.parent / "splits.json", stored=set(context.store.case_ids()))
    if not any(one.validation for one in folds):
        return ": the run has a single case, or cases of one patient"
    return f"; --fold 0 leaves one part in {len(folds)} out"


def _choose_filter(state: TrainState, context: TrainingContext) -> Plans:
    """Write the model again with the filter that all validations of the run support, unless the user has set one."""
    plans = context.plans
    pieces = read_pieces(context.folder.parent, plans=plans)
    planned = plans.reasons.get("inference.component_filter")
    if not pieces or (planned is not None and planned.rule.startswith(SET_BY)):
        return plans
    names = [organ.name for organ in plans.data.organs]
    chosen, reason = choose_component_filter(pieces, names=names, planned=plans.inference.component_filter)
    inference = plans.inference.model_copy(update={"component_filter": chosen})
    reasons = {**plans.reasons, "inference.component_filter": reason}
    plans = plans.model_copy(update={"inference": inference, "reasons": reasons})
    save_model(state.averaged, plans, context.folder / MODEL_FILE_NAME)
    return plans
