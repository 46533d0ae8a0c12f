"""Training of one fold: functions over one `TrainState`.

Owns: the loop, its length by epochs or by time, when to validate and to save.
Does not own: batches (`sampling.py`), losses (`losses.py`), what is in a checkpoint (`state.py`).
"""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from autoseg.errors import TrainingError
from autoseg.files import write_json
from autoseg.network.device import cuda_dtype
from autoseg.network.model_file import MODEL_FILE_NAME, save_model
from autoseg.plans import Plans
from autoseg.preprocessing.store import CaseStore
from autoseg.progress import ProgressBar
from autoseg.training.core_processes import GradientProcesses, start_processes
from autoseg.training.gradients import average_parts, find_gradients
from autoseg.training.metrics_log import append_metrics, keep_until, read_metrics
from autoseg.training.optimiser import learning_rate, set_learning_rate
from autoseg.training.progress_plot import plot_progress
from autoseg.training.sampling import Batch, SliceSampler
from autoseg.training.state import TrainState, load_state, new_state, read_pretrained, save_state, update_average
from autoseg.training.validation import mean_dice, validate_case

log = logging.getLogger("autoseg")

LOOK_EVERY = 0.1  # of the run's length
LOOKING_SHARE = 0.04  # of the training time that looking on the way may take
MAX_MONITORED_SLICES = 300
SECONDS_BETWEEN_SAVES = 60.0
MAX_BAD_STEPS = 20  # in a row, after which a loss that is not finite is no accident


@dataclass(frozen=True)
class Length:
    """How long a run is: by steps, or by seconds where they are given."""

    steps: int
    seconds: float | None

    def progress(self, state: TrainState) -> float:
        """Return how far the run is, 0 to 1."""
        if self.seconds is not None:
            return min(1.0, state.seconds / self.seconds)
        return min(1.0, state.step / self.steps)


@dataclass(frozen=True)
class FoldData:
    """What one fold trains on and is watched on."""

    folder: Path
    store: CaseStore
    training: tuple[str, ...]
    monitored: tuple[str, ...]
    seen_in_training: bool


def train_fold(
    fold: FoldData, *, plans: Plans, length: Length, device: torch.device, cache_bytes: int, offline: bool = False
) -> TrainState:
    """Train a fold, or go on where an earlier run stopped, and write its model.

    Args:
        fold: What to train on.
        plans: Of the run.
        length: Of the run, all sittings together.
        device: To train on.
        cache_bytes: That decompressed cases may take.
        offline: Take pretrained weights of the hub from its cache only.

    Raises:
        CheckpointError: Pretrained weights cannot be had, or the state of the earlier run cannot be used.
        TrainingError: The loss stays not finite.
    """
    resume_path, metrics_path = fold.folder / "resume.pt", fold.folder / "metrics.jsonl"
    needs_scaler = device.type == "cuda" and cuda_dtype() == torch.float16
    weights_path, is_new = fold.folder / "weights.json", not resume_path.exists()
    pretrained = None if is_new or not weights_path.exists() else read_pretrained(weights_path)
    state = new_state(plans, device=device, needs_scaler=needs_scaler, offline=offline, pretrained=pretrained)
    if state.weights is not None:
        write_json(weights_path, asdict(state.weights))
    if not is_new:
        load_state(state, plans, resume_path)
    keep_until(metrics_path, step=state.step)
    sampler = SliceSampler(fold.store, fold.training, plans=plans, cache_bytes=cache_bytes)
    state.network.train()
    num_processes = torch.get_num_threads() if device.type == "cpu" else 1
    try:
        with start_processes(
            state.network, sampler, store=fold.store, first_step=state.step, num_processes=num_processes
        ) as (part, processes):
            batches = sampler.batches(first_step=state.step, part=part)
            _run(state, batches, fold, plans=plans, length=length, processes=processes)
    finally:
        save_state(state, plans, resume_path)
    save_model(state.averaged, plans, fold.folder / MODEL_FILE_NAME)
    plot_progress(read_metrics(metrics_path), fold.folder / "progress.png")
    return state


def _run(
    state: TrainState,
    batches: Iterator[Batch],
    fold: FoldData,
    *,
    plans: Plans,
    length: Length,
    processes: GradientProcesses,
) -> None:
    """Go through epochs until the length is reached."""
    last_save = time.monotonic()
    looking_seconds = 0.0
    next_look = length.progress(state) + LOOK_EVERY
    with ProgressBar(what=f"training {fold.folder.name}", unit="%", total=100) as bar:
        while length.progress(state) < 1.0:
            epoch_record = _run_epoch(state, batches, plans=plans, length=length, processes=processes)
            start = time.monotonic()
            progress = length.progress(state)
            if progress >= min(next_look, 1.0) and looking_seconds <= LOOKING_SHARE * state.seconds:
                epoch_record["validation"] = _monitor(state, fold, plans=plans)
                looking_seconds += time.monotonic() - start
                next_look = progress + LOOK_EVERY
            append_metrics(fold.folder / "metrics.jsonl", epoch_record)
            if time.monotonic() - last_save > SECONDS_BETWEEN_SAVES:
                save_state(state, plans, fold.folder / "resume.pt")
                save_model(state.averaged, plans, fold.folder / MODEL_FILE_NAME)
                plot_progress(read_metrics(fold.folder / "metrics.jsonl"), fold.folder / "progress.png")
                last_save = time.monotonic()
            if length.seconds is not None:
                state.seconds += time.monotonic() - start  # the time that was promised includes looking and saving
            bar.advance_to(100 * length.progress(state), note=_describe(epoch_record))


def _run_epoch(
    state: TrainState, batches: Iterator[Batch], *, plans: Plans, length: Length, processes: GradientProcesses
) -> dict[str, object]:
    """Run one epoch and return its record for `metrics.jsonl`."""
    sums: dict[str, float] = defaultdict(float)
    waited, good_steps = 0.0, 0
    epoch_start = time.monotonic()
    for _ in range(plans.training.steps_per_epoch):
        start = time.monotonic()
        progress = length.progress(state)
        rate = learning_rate(plans.training, progress=progress)
        set_learning_rate(state.optimisers, rate, progress=progress)
        batch = next(batches)
        waited += time.monotonic() - start
        losses = train_step(state, batch, plans=plans, processes=processes)
        state.step += 1
        state.seconds += time.monotonic() - start
        if losses is None:
            state.bad_steps += 1
            if state.bad_steps > MAX_BAD_STEPS:
                raise TrainingError(_explain_bad_loss(batch, state.bad_steps))
        else:
            state.bad_steps, good_steps = 0, good_steps + 1
            for name, value in losses.items():
                sums[name] += value
        if length.progress(state) >= 1.0:
            break
    return {
        "step": state.step,
        "seconds": round(state.seconds, 2),
        "learning_rate": rate,
        "losses": {name: value / max(1, good_steps) for name, value in sums.items()},
        "share_waiting_for_data": round(waited / max(1e-9, time.monotonic() - epoch_start), 4),
    }


def train_step(
    state: TrainState, batch: Batch, *, plans: Plans, processes: GradientProcesses | None = None
) -> dict[str, float] | None:
    """Move the weights by one batch; return the loss terms, or None where the loss was not finite and nothing moved.

    Args:
        state: Is moved.
        batch: The batch, or the part of it that the processes leave.
        plans: Of the run.
        processes: Those that find the gradients of the batch's other parts.
    """
    scaler = state.scaler if state.scaler.is_enabled() else None
    if processes is not None:
        processes.start_step()
    parts = [find_gradients(state.network, state.parameters, batch, plan=plans.training, scaler=scaler)]
    if processes is not None:
        parts += processes.finish_step(state.step, state.network, state.parameters)
    losses, gradients = average_parts(parts)
    if not math.isfinite(losses["total"]):
        log.warning("step %d: the loss is not finite; its batch is skipped.", state.step)
        return None
    for parameter, gradient in zip(state.parameters, gradients, strict=True):
        parameter.grad = gradient
    for optimiser in state.optimisers:
        state.scaler.unscale_(optimiser)
    norm = torch.nn.utils.clip_grad_norm_(state.parameters, plans.training.gradient_clip_norm)
    if torch.isfinite(norm) or state.scaler.is_enabled():  # the scaler skips such a step by itself
        for optimiser in state.optimisers:
            state.scaler.step(optimiser)
    state.scaler.update()
    for parameter in state.parameters:
        parameter.grad = None
    update_average(state.averaged, state.network, decay=plans.training.ema_decay, step=state.step)
    return losses


def _monitor(state: TrainState, fold: FoldData, *, plans: Plans) -> dict[str, object] | None:
    """Measure Dice on whole volumes, without mirroring; None where the fold has nothing to look at."""
    cases = choose_monitored(fold)
    if not cases:
        return None
    quick = plans.model_copy(update={"inference": plans.inference.model_copy(update={"mirror_axes": ()})})
    device = next(state.averaged.parameters()).device
    dice = mean_dice([validate_case(state.averaged, fold.store, case, plans=quick, device=device) for case in cases])
    return {"seen_in_training": fold.seen_in_training, "cases": len(cases), "dice": dice}


def choose_monitored(fold: FoldData) -> list[str]:
    """Choose the cases to look at on the way: as many as keep a look cheap, or else the one with the fewest slices."""
    num_slices = {case: fold.store.shape(case)[1] for case in fold.monitored}
    chosen: list[str] = []
    for case in fold.monitored:
        if sum(num_slices[other] for other in chosen) + num_slices[case] <= MAX_MONITORED_SLICES:
            chosen.append(case)
    return chosen or sorted(fold.monitored, key=num_slices.__getitem__)[:1]


def _describe(record: dict[str, object]) -> str:
    losses = record["losses"]
    assert isinstance(losses, dict)
    text = f"step {record['step']}, loss {losses.get('total', float('nan')):.3f}"
    validation = record.get("validation")
    if isinstance(validation, dict):
        values = [value for value in validation["dice"].values() if value is not None]
        if values:
            where = "training cases" if validation["seen_in_training"] else "validation"
            text += f", Dice {sum(values) / len(values):.3f} ({where})"
    return text


def _explain_bad_loss(batch: Batch, bad_steps: int) -> str:
    cases = ", ".join(sorted(set(batch.case_ids)))
    return (
        f"the loss was not finite in {bad_steps} steps in a row; the last batch had slices of {cases}. "
        "Look at these scans, or lower training.learning_rate."
    )
