"""Training of one fold: functions over one `TrainState`.

Owns: the loop, its length by epochs or by time, when to save, and when a run has gone wrong.
Does not own: a step (`step.py`), batches (`data/sampler.py`, `data/loading.py`), looking on the way
(`validation/periodic_validation.py`), files (`checkpointing/checkpoint_policy.py`).
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from autoseg.config.plans import Plans
from autoseg.distributed.collectives import Sharing, share_training
from autoseg.distributed.state_sync import keep_alike, spread_state
from autoseg.network.weights.model_file import MODEL_FILE_NAME, STATE_FILE_NAME, save_model
from autoseg.system.atomic_files import write_json
from autoseg.system.progress import ProgressBar
from autoseg.system.torch_device import cuda_dtype
from autoseg.training.checkpointing.checkpoint_policy import draw, end_sitting, go_back, keep_on_the_way, keep_state
from autoseg.training.checkpointing.checkpoints import has_state, load_state
from autoseg.training.checkpointing.init_from_model import StartingModel
from autoseg.training.checkpointing.transfer_report import WEIGHTS_FILE_NAME
from autoseg.training.core_processes import GradientProcesses, cut_for_processes, start_processes
from autoseg.training.data.loading import batches_ahead
from autoseg.training.data.sampler import Batch, SliceSampler
from autoseg.training.logging.metrics_log import append_metrics, keep_until
from autoseg.training.micro_batches import Room
from autoseg.training.optim.optimizers import learning_rate, set_learning_rate
from autoseg.training.state import TrainState, new_state, read_pretrained
from autoseg.training.step import train_step
from autoseg.training.step_share import share_of
from autoseg.training.validation.periodic_validation import FoldData, Watch

log = logging.getLogger("autoseg")

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


def train_fold(
    fold: FoldData,
    *,
    plans: Plans,
    length: Length,
    device: torch.device,
    cache_bytes: int,
    offline: bool = False,
    start: StartingModel | None = None,
) -> TrainState:
    """Train a fold, or go on where an earlier run stopped, and write its model.

    A run that is done already only has its model written again.

    Args:
        fold: What to train on.
        plans: Of the run.
        length: Of the run, all sittings together.
        device: To train on.
        cache_bytes: That decompressed cases may take.
        offline: Take pretrained weights of the hub from its cache only.
        start: The finished model that a new run begins from, if any; a run that goes on needs none.

    Raises:
        CheckpointError: Pretrained weights cannot be had, or the states of the earlier run cannot be used.
        OutputError: The disk is full at the beginning or the end.
        DatasetError: A preprocessed case is damaged.
        TrainingError: The loss stays not finite, or the device's memory holds not one slice.
        UsageError: There are more ranks than slices in a step.
        RankLostError: Another rank is gone; the state is saved.
    """
    with share_training(fold.ranks, device) as sharing:
        state = _begin(fold, plans=plans, device=device, offline=offline, start=start, sharing=sharing)
        sampler = SliceSampler(
            fold.store,
            fold.training,
            plans=plans,
            cache_bytes=cache_bytes,
            slices_per_step=state.slices_per_step,
        )
        if length.progress(state) < 1.0:
            try:
                _train(state, sampler, fold, length=length, sharing=sharing)
            except BaseException as error:
                end_sitting(error, state, plans, fold)
                raise
        if not state.is_finite():
            go_back(state, plans, fold.folder, cases=_last_cases(state, sampler), sharing=sharing)
        if sharing.leads:
            keep_state(state, plans, fold.folder)
            save_model(state.averaged, plans, fold.folder / MODEL_FILE_NAME)
            draw(fold.folder)
    return state


def _begin(
    fold: FoldData,
    *,
    plans: Plans,
    device: torch.device,
    offline: bool,
    start: StartingModel | None,
    sharing: Sharing,
) -> TrainState:
    """Make the state of a new run, and save it: so it is known that there is room, and there is a way back.

    Or take the one that an earlier sitting left.
    """
    path, weights_path = fold.folder / STATE_FILE_NAME, fold.folder / WEIGHTS_FILE_NAME
    is_new = fold.ranks.from_lead(not has_state(path))
    if not sharing.leads:
        fold.ranks.wait()  # for the first one, which fetches what is to be fetched, and fails where it must alone
    needs_scaler = device.type == "cuda" and cuda_dtype() == torch.float16
    pretrained = None if is_new or not weights_path.exists() else read_pretrained(weights_path)
    state = new_state(
        plans,
        device=device,
        needs_scaler=needs_scaler,
        offline=offline,
        pretrained=pretrained,
        start=start if is_new else None,
        num_ranks=fold.ranks.size,
    )
    if sharing.leads:
        if state.weights is not None:
            write_json(weights_path, asdict(state.weights))
        elif is_new:
            weights_path.unlink(missing_ok=True)  # of a beginning that was killed
        if is_new:
            keep_state(state, plans, fold.folder)
        else:
            load_state(state, plans, path)
        keep_until(fold.folder / "metrics.jsonl", step=state.step)
        fold.ranks.wait()
    spread_state(state, plans, sharing)
    state.network.train()
    return state


def _train(state: TrainState, sampler: SliceSampler, fold: FoldData, *, length: Length, sharing: Sharing) -> None:
    """Train in this process, on a CPU also in one for each core beside it; for a GPU others make the batches."""
    share = share_of(
        sampler.plans, slices_per_step=state.slices_per_step, rank=fold.ranks.rank, num_ranks=fold.ranks.size
    )
    num_processes = torch.get_num_threads() if state.device.type == "cpu" else 1
    with start_processes(state, sampler, store=fold.store, share=share, num_processes=num_processes) as processes:
        is_one_core = state.device.type == "cpu" and processes.part == slice(0, state.slices_per_step)
        halves = cut_for_processes(share, 2, memory_clip_slices=sampler.plans.memory_clip_slices)
        state.room = Room(share.at_once, blocks=tuple(halves) if is_one_core else ())
        with batches_ahead(sampler, first_step=state.step, part=processes.part, device=state.device) as batches:
            _run(state, batches, fold, sampler=sampler, length=length, processes=processes, sharing=sharing)


def _run(
    state: TrainState,
    batches: Iterator[Batch],
    fold: FoldData,
    *,
    sampler: SliceSampler,
    length: Length,
    processes: GradientProcesses,
    sharing: Sharing,
) -> None:
    """Go through epochs until the length is reached."""
    plans = sampler.plans
    last_save = time.monotonic()
    watch = Watch(progress=length.progress(state))
    with ProgressBar(what=f"training {fold.folder.name}", unit="%", total=100) as bar:
        while length.progress(state) < 1.0:
            epoch_record = _run_epoch(state, batches, plans=plans, length=length, processes=processes, sharing=sharing)
            keep_alike(state, plans, sharing)
            start = time.monotonic()
            if state.bad_steps > MAX_BAD_STEPS:
                go_back(state, plans, fold.folder, cases=_last_cases(state, sampler), sharing=sharing)
            progress = length.progress(state)
            if watch.is_due(state, progress=progress):
                epoch_record["validation"] = watch.look(state, fold, plans=plans, progress=progress)
            if sharing.leads:
                _note(epoch_record, fold)
            if sharing.leads and time.monotonic() - last_save > SECONDS_BETWEEN_SAVES:
                keep_on_the_way(state, plans, fold.folder)
                last_save = time.monotonic()
            if length.seconds is not None:  # the time that was promised includes looking and saving
                state.seconds += sharing.spend(time.monotonic() - start)
            bar.advance_to(100 * length.progress(state), note=_describe(epoch_record))


def _run_epoch(
    state: TrainState,
    batches: Iterator[Batch],
    *,
    plans: Plans,
    length: Length,
    processes: GradientProcesses,
    sharing: Sharing,
) -> dict[str, object]:
    """Run one epoch, or less where too many steps in a row go wrong; returns its record for `metrics.jsonl`."""
    sums: dict[str, float] = defaultdict(float)
    waited, good_steps = 0.0, 0
    epoch_start = time.monotonic()
    for _ in range(plans.training.steps_per_epoch):
        start = time.monotonic()
        progress = length.progress(state)
        rate = state.rate_factor * learning_rate(plans.training, progress=progress)
        set_learning_rate(state.optimizers, rate, progress=progress)
        batch = next(batches)
        waited += time.monotonic() - start
        losses = train_step(state, batch, plans=plans, processes=processes, sharing=sharing)
        state.seconds += sharing.spend(time.monotonic() - start)
        if losses is not None:
            good_steps += 1
            for name, value in losses.items():
                sums[name] += value
        if length.progress(state) >= 1.0 or state.bad_steps > MAX_BAD_STEPS:
            break
    return {
        "step": state.step,
        "seconds": round(state.seconds, 2),
        "learning_rate": rate,
        "losses": {name: value / max(1, good_steps) for name, value in sums.items()},
        "share_waiting_for_data": round(waited / max(1e-9, time.monotonic() - epoch_start), 4),
    }


def _note(record: dict[str, object], fold: FoldData) -> None:
    try:
        append_metrics(fold.folder / "metrics.jsonl", record)
    except OSError as error:
        log.warning("%s: the record of step %s is lost (%s).", fold.folder / "metrics.jsonl", record["step"], error)


def _last_cases(state: TrainState, sampler: SliceSampler) -> list[str]:
    """Return the cases of the last bad steps, or of the last step where none was; a few steps tell."""
    count = min(max(1, state.bad_steps), 5, state.step)
    return [case for step in range(state.step - count, state.step) for case in sampler.draws.cases_of(step)]


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
