"""Trains one fold: the loop over epochs and steps.

Owns: `train_fold`: how a run begins or is resumed, when it is saved, and when it is rolled back.
Does not own: a step (`step.py`), batches (`data/`), validation (`validation/periodic_validation.py`), files
(`checkpointing/checkpoint_policy.py`).
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from autoseg.network.weights.model_file import MODEL_FILE_NAME, STATE_FILE_NAME, save_model
from autoseg.system.atomic_files import write_json
from autoseg.system.progress import ProgressBar
from autoseg.training.checkpointing.checkpoint_policy import (
    draw_progress,
    roll_back,
    save_at_interruption,
    save_periodically,
    save_state_if_new,
)
from autoseg.training.checkpointing.checkpoints import broadcast_state, has_state, load_state
from autoseg.training.checkpointing.transfer_report import WEIGHTS_FILE_NAME, read_start
from autoseg.training.context import TrainingContext, shard_of_step
from autoseg.training.data.batch import Batch
from autoseg.training.data.loader import make_loader
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.logging.metrics_log import append_metrics, keep_until
from autoseg.training.optim.learning_rate import learning_rate, set_learning_rate
from autoseg.training.state import TrainState, new_state
from autoseg.training.step import train_step
from autoseg.training.validation.periodic_validation import ValidationSchedule

log = logging.getLogger("autoseg")

SECONDS_BETWEEN_SAVES = 60.0
MAX_BAD_STEPS = 20  # in a row; a loss that stays not finite for longer is no accident


def train_fold(context: TrainingContext) -> TrainState:
    """Train a fold, or resume it where an earlier run stopped, and write its model.

    For a run that is already complete, only the model is written again.

    Raises:
        CheckpointError: Pretrained weights cannot be loaded, or the states of the earlier run cannot be used.
        OutputError: The disk is full at the beginning or the end.
        DatasetError: A preprocessed case is damaged.
        TrainingError: The loss stays not finite, or the device's memory is too small for one slice.
        UsageError: There are more ranks than slices in a step.
        RankLostError: Another rank is gone; the state is saved.
    """
    plans, ranks, length = context.plans, context.ranks, context.length
    state = _begin_or_resume(context)
    sampler = SliceSampler(
        context.store,
        context.training_cases,
        plans=plans,
        cache_bytes=context.cache_bytes,
        slices_per_step=state.slices_per_step,
    )
    shard = shard_of_step(plans, slices_per_step=state.slices_per_step, rank=ranks.rank, world_size=ranks.world_size)
    batches = make_loader(sampler, first_step=state.step, part=shard, device=state.device)
    last_save = time.monotonic()
    validation = ValidationSchedule(progress=length.progress(state))
    try:
        with ProgressBar(what=f"training {context.folder.name}", unit="%", total=100) as bar:
            while length.progress(state) < 1.0:
                record = train_epoch(state, batches, context)
                start = time.monotonic()
                if state.bad_steps > MAX_BAD_STEPS:
                    roll_back(state, context, cases=_cases_of_last_steps(state, sampler))
                if validation.is_due(state, progress=length.progress(state)):
                    record["validation"] = validation.measure(state, context)
                if ranks.is_main:
                    _log_epoch(record, context)
                    if time.monotonic() - last_save > SECONDS_BETWEEN_SAVES:
                        save_periodically(state, context)
                        last_save = time.monotonic()
                if length.seconds is not None:  # the promised time includes validation and saving
                    state.seconds += ranks.broadcast(time.monotonic() - start)
                bar.advance_to(100 * length.progress(state), note=_describe(record))
    except BaseException as error:
        save_at_interruption(error, state, context)
        raise
    if not state.is_finite():
        roll_back(state, context, cases=_cases_of_last_steps(state, sampler))
    if ranks.is_main:
        save_state_if_new(state, context)
        save_model(state.averaged, plans, context.folder / MODEL_FILE_NAME)
        draw_progress(context.folder)
    return state


def train_epoch(state: TrainState, batches: Iterator[Batch], context: TrainingContext) -> dict[str, Any]:
    """Train one epoch, or less where too many steps in a row go wrong, and return its record for `metrics.jsonl`."""
    plan, length = context.plans.training, context.length
    sums: dict[str, float] = defaultdict(float)
    waited, good_steps, epoch_start = 0.0, 0, time.monotonic()
    for _ in range(plan.steps_per_epoch):
        start = time.monotonic()
        progress = length.progress(state)
        rate = state.rate_factor * learning_rate(plan, progress=progress)
        set_learning_rate(state.optimizers, rate, progress=progress)
        batch = next(batches)
        waited += time.monotonic() - start
        losses = train_step(state, batch, context)
        seconds = time.monotonic() - start
        # with a limit in time, all ranks must go by one clock, or they would not end at the same step
        state.seconds += context.ranks.broadcast(seconds) if length.seconds is not None else seconds
        if losses is not None:
            good_steps += 1
            for name, value in losses.items():
                sums[name] += value
            if context.ranks.is_main:
                for callback in context.callbacks:
                    callback.on_step_end(state.step, losses)
        if length.progress(state) >= 1.0 or state.bad_steps > MAX_BAD_STEPS:
            break
    return {
        "step": state.step,
        "seconds": round(state.seconds, 2),
        "learning_rate": rate,
        "losses": {name: value / max(1, good_steps) for name, value in sums.items()},
        "fraction_waiting_for_data": round(waited / max(1e-9, time.monotonic() - epoch_start), 4),
    }


def _begin_or_resume(context: TrainingContext) -> TrainState:
    """Build the state of a new run and save it, which shows that there is room; or load the saved state."""
    plans, ranks = context.plans, context.ranks
    path, weights_path = context.folder / STATE_FILE_NAME, context.folder / WEIGHTS_FILE_NAME
    is_new = ranks.broadcast(not has_state(path))
    if not ranks.is_main:
        ranks.barrier()  # rank 0 fetches what is to be fetched, and fails alone where that fails
    record = None if is_new else read_start(context.folder)
    state = new_state(
        plans,
        device=context.device,
        offline=context.offline,
        pretrained=None if record is None else record["parameters"],
        start=context.start if is_new else None,
        world_size=1 if ranks.is_local else ranks.world_size,
        build=context.build_network,
    )
    if ranks.is_main:
        if state.weights is not None:
            write_json(weights_path, state.weights.record())
        elif is_new:
            weights_path.unlink(missing_ok=True)  # left by a beginning that was killed
        if is_new:
            save_state_if_new(state, context)
        else:
            load_state(state, plans, path)
        keep_until(context.folder / "metrics.jsonl", step=state.step)
        ranks.barrier()
    broadcast_state(state, plans, ranks)
    state.network.train()
    return state


def _log_epoch(record: dict[str, Any], context: TrainingContext) -> None:
    path = context.folder / "metrics.jsonl"
    try:
        append_metrics(path, record)
    except OSError as error:
        log.warning("%s: the record of step %s is lost (%s).", path, record["step"], error)
    for callback in context.callbacks:
        callback.on_epoch_end(record)


def _cases_of_last_steps(state: TrainState, sampler: SliceSampler) -> list[str]:
    """Return the cases of the last bad steps, or of the last step where none was; a few steps are enough."""
    count = min(max(1, state.bad_steps), 5, state.step)
    return [case for step in range(state.step - count, state.step) for case in sampler.draws.cases_of(step)]


def _describe(record: dict[str, Any]) -> str:
    text = f"step {record['step']}, loss {record['losses'].get('total', float('nan')):.3f}"
    validation = record.get("validation")
    if validation is not None:
        values = [value for value in validation["dice"].values() if value is not None]
        if values:
            where = "training cases" if validation["seen_in_training"] else "validation"
            text += f", Dice {sum(values) / len(values):.3f} ({where})"
    return text
