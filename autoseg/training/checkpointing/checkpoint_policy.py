"""What a run leaves on the disk while it goes on, and the way back to it.

Owns: which states are worth saving, what a full disk means in the middle of a run and at its end, going back once.
Does not own: the form of a state's file (`checkpoints.py`), the loop (`trainer.py`).
"""

import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from autoseg.config.plans import Plans
from autoseg.distributed.collectives import ALONE, Sharing
from autoseg.distributed.last_words import ApartError
from autoseg.distributed.state_sync import spread_state
from autoseg.errors import OutputError, TrainingError
from autoseg.network.weights.model_file import MODEL_FILE_NAME, STATE_FILE_NAME, save_model
from autoseg.system.signals import defer_signals
from autoseg.training.checkpointing.checkpoints import load_earlier, save_state
from autoseg.training.logging.metrics_log import read_metrics
from autoseg.training.logging.progress_plot import plot_progress
from autoseg.training.state import TrainState
from autoseg.training.validation.periodic_validation import FoldData

log = logging.getLogger("autoseg")

LOWER_RATE = 0.3  # of the learning rate, after a run had to go back
MAX_CASES_NAMED = 8


def keep_state(state: TrainState, plans: Plans, folder: Path) -> None:
    """Save a state that has moved on since the last save; its weights are finite.

    Raises:
        OutputError: The disk is full; the state before stays.
    """
    if state.step != state.saved_step:
        save_state(state, plans, folder / STATE_FILE_NAME)


def keep_on_the_way(state: TrainState, plans: Plans, folder: Path) -> None:
    """Save state, model and picture in the middle of a run: a full disk is a warning, and the next save tries again."""
    if not state.is_sound():  # rather the one before, until it is known how this ends
        return
    try:
        keep_state(state, plans, folder)
        save_model(state.averaged, plans, folder / MODEL_FILE_NAME)
        draw(folder)
    except OutputError as error:
        log.warning("step %d is not saved: %s Training goes on, and tries again later.", state.step, error)


def keep_at_a_stop(state: TrainState, plans: Plans, folder: Path) -> None:
    """Save a good state where an error or a signal ends the sitting; that one counts, so a full disk is a warning."""
    if not state.is_sound():
        return
    try:
        keep_state(state, plans, folder)
    except OutputError as error:
        log.warning("step %d is not saved: %s", state.step, error)


def end_sitting(error: BaseException, state: TrainState, plans: Plans, fold: FoldData) -> None:
    """Save a good state where an error or a signal ends the sitting, and raise what there is to say about it.

    Raises:
        BaseException: What the ranks say of the error, where that is another one.
    """
    told = error
    try:
        told = fold.ranks.explain(error, where=f"at step {state.step}")
    finally:
        if fold.ranks.leads:
            # torchrun sends SIGTERM to the ranks that are left, and must not interrupt what that asks for.
            with defer_signals() if isinstance(error, ApartError) else nullcontext():
                keep_at_a_stop(state, plans, fold.folder)
    if told is not error:
        raise told from error


def draw(folder: Path) -> None:
    """Draw `progress.png`; training needs no picture, so what goes wrong with it is a warning."""
    try:
        plot_progress(read_metrics(folder / "metrics.jsonl"), folder / "progress.png")
    except OSError as error:
        log.warning("%s could not be drawn: %s.", folder / "progress.png", error)


def go_back(state: TrainState, plans: Plans, folder: Path, *, cases: Iterable[str], sharing: Sharing = ALONE) -> None:
    """Return to a saved state with a lower learning rate, once in a run; steps and time stay spent.

    Args:
        state: Has gone wrong: the last steps were not finite, or weights are not.
        plans: Of the run.
        folder: Of the fold.
        cases: Of the last bad steps.
        sharing: The ranks, which all go back.

    Raises:
        TrainingError: The run has gone back already.
    """
    if state.rate_factor < 1.0:
        raise TrainingError(_explain_second_time(state, folder, cases))
    if sharing.leads:
        _load_earlier(state, plans, folder, cases=cases)
    spread_state(state, plans, sharing)


def _load_earlier(state: TrainState, plans: Plans, folder: Path, *, cases: Iterable[str]) -> None:
    bad_steps = state.bad_steps
    spent = state.step, state.seconds, state.best_dice
    source = load_earlier(state, plans, folder / STATE_FILE_NAME)
    log.warning(
        "step %d: the loss was not finite in %d steps in a row; back to the weights of step %d (%s), from now on with "
        "%g times the learning rate. The last batches had slices of %s.",
        spent[0],
        bad_steps,
        state.step,
        source.name,
        LOWER_RATE,
        _name(cases),
    )
    state.step, state.seconds, state.best_dice = spent
    state.rate_factor = LOWER_RATE
    try:
        save_state(state, plans, folder / STATE_FILE_NAME, keeps_previous=False)
    except OutputError as error:
        log.warning("step %d is not saved: %s", state.step, error)


def _explain_second_time(state: TrainState, folder: Path, cases: Iterable[str]) -> str:
    what = f"in {state.bad_steps} steps in a row" if state.bad_steps else "any more, nor are all weights"
    return (
        f"the loss was not finite {what}, again, after going back to an earlier state with {LOWER_RATE:g} times the "
        f"learning rate; the last batches had slices of {_name(cases)}. Look at these scans; or plan again with a "
        f"lower training.learning_rate and delete the folder {folder}. The last good state is kept in it."
    )


def _name(cases: Iterable[str]) -> str:
    """Name cases, the most frequent first."""
    names = [case for case, _ in Counter(cases).most_common()]
    more = f" and {len(names) - MAX_CASES_NAMED} more" if len(names) > MAX_CASES_NAMED else ""
    return ", ".join(names[:MAX_CASES_NAMED]) + more
