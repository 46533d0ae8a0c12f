"""Looking on the way: Dice on whole volumes while a fold trains, and the best model so far.

Owns: `FoldData`, when to look, at which cases, and `model_best.safetensors`.
Does not own: how a volume is predicted (`validate_case.py`), the model that prediction uses, which is the last one.
"""

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.config.plans import Plans
from autoseg.distributed.ranks import ONE_RANK, Ranks
from autoseg.errors import OutputError, TrainingError
from autoseg.network.weights.model_file import save_model
from autoseg.preprocessing.store import CaseStore
from autoseg.training.state import TrainState
from autoseg.training.validation.confusion import CaseDice, mean_dice
from autoseg.training.validation.validate_case import validate_case

log = logging.getLogger("autoseg")

BEST_MODEL_FILE_NAME = "model_best.safetensors"
LOOK_EVERY = 0.1  # of the run's length
LOOKING_SHARE = 0.04  # of the training time that looking on the way may take
MAX_MONITORED_SLICES = 300


@dataclass(frozen=True)
class FoldData:
    """What one fold trains on and is watched on, and the ranks that share the work."""

    folder: Path
    store: CaseStore
    training: tuple[str, ...]
    monitored: tuple[str, ...]
    seen_in_training: bool
    ranks: Ranks = ONE_RANK


class Watch:
    """Decides when to look, so that it costs little, and counts what it has cost."""

    def __init__(self, *, progress: float) -> None:
        """Begin a sitting at this share of the run."""
        self._seconds = 0.0
        self._next = progress + LOOK_EVERY

    def is_due(self, state: TrainState, *, progress: float) -> bool:
        """Return whether it is time to look, and looking has not taken too much of the training's time."""
        return progress >= min(self._next, 1.0) and self._seconds <= LOOKING_SHARE * state.seconds

    def look(self, state: TrainState, fold: FoldData, *, plans: Plans, progress: float) -> dict[str, Any] | None:
        """Measure Dice, and keep the averaged network if it is the best so far.

        Returns:
            A record for `metrics.jsonl`; None where there is nothing to look at, or no memory for it.
        """
        start = time.monotonic()
        record = _measure(state, fold, plans=plans)
        self._seconds += fold.ranks.from_lead(time.monotonic() - start)  # or they would not look at the same steps
        self._next = progress + LOOK_EVERY
        return record


def _measure(state: TrainState, fold: FoldData, *, plans: Plans) -> dict[str, Any] | None:
    """Measure Dice on whole volumes, without mirroring."""
    cases = choose_monitored(fold)
    if not cases:
        return None
    quick = plans.model_copy(update={"inference": plans.inference.model_copy(update={"mirror_axes": ()})})
    own: dict[str, CaseDice] | None = None
    try:
        own = {
            case: validate_case(state.averaged, fold.store, case, plans=quick, device=state.device)
            for case in fold.ranks.share(cases)
        }
    except TrainingError as error:  # no memory; the training goes on
        log.warning("no look at the validation cases this time: %s", error)
    found: list[dict[str, CaseDice] | None] = fold.ranks.gather(own)
    together = {case: dice for of_rank in found if of_rank is not None for case, dice in of_rank.items()}
    if None in found:
        return None
    dice = mean_dice([together[case] for case in cases])
    record = {"seen_in_training": fold.seen_in_training, "cases": len(cases), "dice": dice}
    if fold.seen_in_training or not fold.ranks.leads:
        return record
    return {**record, "is_best": _keep_best(state, fold, dice, plans=plans)}


def _keep_best(state: TrainState, fold: FoldData, dice: CaseDice, *, plans: Plans) -> bool:
    """Write the averaged network if its mean Dice is above all before."""
    values = [value for value in dice.values() if value is not None]
    mean = sum(values) / len(values) if values else 0.0
    if mean <= state.best_dice or not state.is_sound():
        return False
    try:
        save_model(state.averaged, plans, fold.folder / BEST_MODEL_FILE_NAME)
    except OutputError as error:
        log.warning("the best model so far is not kept: %s", error)
        return False
    state.best_dice = mean
    return True


def take_turns(case_ids: Sequence[str], store: CaseStore) -> list[str]:
    """Order cases so that their datasets take turns; those of one dataset stay in their order."""
    datasets: dict[str | None, list[str]] = {}
    for case_id in case_ids:
        datasets.setdefault(store.source(case_id).dataset, []).append(case_id)
    rounds = itertools.zip_longest(*datasets.values())
    return [case_id for one in rounds for case_id in one if case_id is not None]


def choose_monitored(fold: FoldData) -> list[str]:
    """Choose the cases to look at on the way: as many as keep a look cheap, or else the one with the fewest slices.

    Datasets take their turns, since what is best is told by these cases.
    """
    num_slices = {case: fold.store.shape(case)[1] for case in fold.monitored}
    chosen: list[str] = []
    for case in take_turns(fold.monitored, fold.store):
        if sum(num_slices[other] for other in chosen) + num_slices[case] <= MAX_MONITORED_SLICES:
            chosen.append(case)
    return chosen or sorted(fold.monitored, key=num_slices.__getitem__)[:1]
