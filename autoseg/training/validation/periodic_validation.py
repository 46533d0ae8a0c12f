"""Measures Dice on whole volumes while a fold trains, and keeps the best model so far.

Owns: `ValidationSchedule`, the choice of the cases, and `model_best.safetensors`.
Does not own: how a volume is predicted (`validate_case.py`), the model used for prediction, which is the last one.
"""

import logging
import time
from typing import Any

from autoseg.errors import OutputError, TrainingError
from autoseg.network.weights.model_file import save_model
from autoseg.training.context import TrainingContext
from autoseg.training.folds import interleave_datasets
from autoseg.training.state import TrainState
from autoseg.training.validation.confusion import CaseDice, mean_dice
from autoseg.training.validation.validate_case import validate_case

log = logging.getLogger("autoseg")

BEST_MODEL_FILE_NAME = "model_best.safetensors"
VALIDATE_EVERY = 0.1  # of the run's length
MAX_TIME_FRACTION = 0.04  # of the training time, for periodic validation
MAX_SLICES = 300  # of one periodic validation


class ValidationSchedule:
    """Decides when to validate, so that it costs little, and measures its time."""

    def __init__(self, *, progress: float) -> None:
        """Begin at this fraction of the run."""
        self._seconds = 0.0
        self._next = progress + VALIDATE_EVERY

    def is_due(self, state: TrainState, *, progress: float) -> bool:
        """Return whether it is time to validate, and validation has not taken too much of the training time."""
        return progress >= min(self._next, 1.0) and self._seconds <= MAX_TIME_FRACTION * state.seconds

    def measure(self, state: TrainState, context: TrainingContext) -> dict[str, Any] | None:
        """Measure Dice, and keep the averaged network if it is the best so far.

        Returns:
            A record for `metrics.jsonl`; None where there is no case to validate on, or too little memory.
        """
        start = time.monotonic()
        record = _measure(state, context)
        self._seconds += context.ranks.broadcast(time.monotonic() - start)  # or the ranks' schedules would differ
        self._next = context.length.progress(state) + VALIDATE_EVERY
        return record


def _measure(state: TrainState, context: TrainingContext) -> dict[str, Any] | None:
    """Measure Dice on whole volumes, without mirroring."""
    plans, ranks = context.plans, context.ranks
    cases = choose_validation_cases(context)
    if not cases:
        return None
    quick = plans.model_copy(update={"inference": plans.inference.model_copy(update={"mirror_axes": ()})})
    own: dict[str, CaseDice] | None = None
    try:
        own = {
            case: validate_case(state.averaged, context.store, case, plans=quick, device=state.device)
            for case in ranks.shard(cases)
        }
    except TrainingError as error:  # no memory; the training goes on
        log.warning("validation is left out this time: %s", error)
    gathered: list[dict[str, CaseDice] | None] = ranks.all_gather(own)
    if None in gathered:
        return None
    together = {case: dice for of_rank in gathered if of_rank is not None for case, dice in of_rank.items()}
    dice = mean_dice([together[case] for case in cases])
    record = {"seen_in_training": context.seen_in_training, "cases": len(cases), "dice": dice}
    if context.seen_in_training or not ranks.is_main:
        return record
    return {**record, "is_best": _keep_best(state, context, dice)}


def _keep_best(state: TrainState, context: TrainingContext, dice: CaseDice) -> bool:
    """Write the averaged network if its mean Dice is the highest so far."""
    values = [value for value in dice.values() if value is not None]
    mean = sum(values) / len(values) if values else 0.0
    if mean <= state.best_dice or not state.is_sound():
        return False
    try:
        save_model(state.averaged, context.plans, context.folder / BEST_MODEL_FILE_NAME)
    except OutputError as error:
        log.warning("the best model so far is not kept: %s", error)
        return False
    state.best_dice = mean
    return True


def choose_validation_cases(context: TrainingContext) -> list[str]:
    """Choose as many cases as keep periodic validation cheap, or else the one with the fewest slices.

    Datasets alternate, since these cases decide which model is the best.
    """
    num_slices = {case: context.store.shape(case)[1] for case in context.validation_cases}
    chosen: list[str] = []
    for case in interleave_datasets(context.validation_cases, context.store):
        if sum(num_slices[other] for other in chosen) + num_slices[case] <= MAX_SLICES:
            chosen.append(case)
    return chosen or sorted(context.validation_cases, key=num_slices.__getitem__)[:1]
