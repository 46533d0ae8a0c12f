"""Decides which training states are saved, and when a run is rolled back to one.

Owns: which states are worth saving, how a full disk is handled during a run and at its end, the one rollback of a run.
Does not own: the form of a state's file (`checkpoints.py`), the loop (`training/trainer.py`).
"""

import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from autoseg.distributed.ranks import LostConnectionError
from autoseg.errors import OutputError, TrainingError
from autoseg.network.weights.model_file import MODEL_FILE_NAME, STATE_FILE_NAME, save_model
from autoseg.system.signals import defer_signals
from autoseg.training.checkpointing.checkpoints import broadcast_state, load_earlier, save_state
from autoseg.training.context import TrainingContext
from autoseg.training.logging.metrics_log import read_metrics
from autoseg.training.logging.progress_plot import plot_progress
from autoseg.training.state import TrainState

log = logging.getLogger("autoseg")

RATE_AFTER_ROLLBACK = 0.3  # a factor of the learning rate
MAX_CASES_NAMED = 8


def save_state_if_new(state: TrainState, context: TrainingContext) -> None:
    """Save a state that has changed since the last save; its weights are finite.

    Raises:
        OutputError: The disk is full; the state that was saved before stays.
    """
    if state.step != state.saved_step:
        save_state(state, context.plans, context.folder / STATE_FILE_NAME)


def save_periodically(state: TrainState, context: TrainingContext) -> None:
    """Save state, model and picture during a run; a full disk is a warning, and the next save tries again."""
    if not state.is_sound():  # keep the one before until it is known how this ends
        return
    try:
        save_state_if_new(state, context)
        save_model(state.averaged, context.plans, context.folder / MODEL_FILE_NAME)
        draw_progress(context.folder)
    except OutputError as error:
        log.warning("step %d is not saved: %s Training continues, and tries again later.", state.step, error)


def save_at_interruption(error: BaseException, state: TrainState, context: TrainingContext) -> None:
    """Save a good state where an error or a signal ends the run; a full disk is then only a warning.

    Raises:
        RankLostError: The error came from another rank that is gone.
    """
    explained = context.ranks.explain(error, where=f"at step {state.step}")
    if context.ranks.is_main and state.is_sound():
        # torchrun sends SIGTERM to the ranks that are left, which must not interrupt the saving
        with defer_signals() if isinstance(error, LostConnectionError) else nullcontext():
            try:
                save_state_if_new(state, context)
            except OutputError as full:
                log.warning("step %d is not saved: %s", state.step, full)
    if explained is not error:
        raise explained from error


def draw_progress(folder: Path) -> None:
    """Draw `progress.png`; a failure is only a warning."""
    try:
        plot_progress(read_metrics(folder / "metrics.jsonl"), folder / "progress.png")
    except OSError as error:
        log.warning("%s could not be drawn: %s.", folder / "progress.png", error)


def roll_back(state: TrainState, context: TrainingContext, *, cases: Iterable[str]) -> None:
    """Return to a saved state with a lower learning rate, once per run; steps and time stay counted.

    Args:
        state: The state that has diverged: its last steps were not finite, or its weights are not.
        context: The run, all of whose ranks roll back.
        cases: The cases of the last bad steps.

    Raises:
        TrainingError: The run was rolled back before.
    """
    if state.rate_factor < 1.0:
        raise TrainingError(_explain_second_time(state, context.folder, cases))
    if context.ranks.is_main:
        _load_earlier(state, context, cases=cases)
    broadcast_state(state, context.plans, context.ranks)


def _load_earlier(state: TrainState, context: TrainingContext, *, cases: Iterable[str]) -> None:
    bad_steps = state.bad_steps
    spent = state.step, state.seconds, state.best_dice
    source = load_earlier(state, context.plans, context.folder / STATE_FILE_NAME)
    log.warning(
        "step %d: the loss was not finite in %d steps in a row; back to the weights of step %d (%s), from now on with "
        "%g times the learning rate. The last batches had slices of %s.",
        spent[0],
        bad_steps,
        state.step,
        source.name,
        RATE_AFTER_ROLLBACK,
        _name(cases),
    )
    state.step, state.seconds, state.best_dice = spent
    state.rate_factor = RATE_AFTER_ROLLBACK
    try:
        save_state(state, context.plans, context.folder / STATE_FILE_NAME, keeps_previous=False)
    except OutputError as error:
        log.warning("step %d is not saved: %s", state.step, error)


def _explain_second_time(state: TrainState, folder: Path, cases: Iterable[str]) -> str:
    what = f"in {state.bad_steps} steps in a row" if state.bad_steps else "any more, nor are all weights"
    return (
        f"the loss was not finite {what}, again, after a rollback to an earlier state with {RATE_AFTER_ROLLBACK:g} "
        f"times the learning rate; the last batches had slices of {_name(cases)}. Look at these scans; or plan again "
        f"with a lower training.learning_rate and delete the folder {folder}. The last good state is kept in it."
    )


def _name(cases: Iterable[str]) -> str:
    """Name cases, the most frequent first."""
    names = [case for case, _ in Counter(cases).most_common()]
    more = f" and {len(names) - MAX_CASES_NAMED} more" if len(names) > MAX_CASES_NAMED else ""
    return ", ".join(names[:MAX_CASES_NAMED]) + more
