"""Runs `autoseg.train`, the function behind `autoseg_train`: it trains one fold of a run folder.

Owns: the checks before training, the folder's lock, the ranks, and what is reported at the end.
Does not own: the training (`training/trainer.py`), the validation at its end (`training/validation/`).
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoseg import __version__
from autoseg.config.plans import Plans, read_plans
from autoseg.distributed.local_ranks import start_local_ranks
from autoseg.distributed.ranks import Ranks, join_ranks, num_local_ranks, rank_name
from autoseg.errors import DatasetError, OutputError, Problem, TrainingError, UsageError
from autoseg.network.weights.model_file import STATE_FILE_NAME, BuildNetwork
from autoseg.preprocessing.store import CaseStore
from autoseg.system.atomic_files import explain_write_error, find_disk_fault, remove_leftovers
from autoseg.system.file_lock import hold_folder
from autoseg.system.out_of_memory import explain_full_memory, is_out_of_memory
from autoseg.system.progress import track
from autoseg.system.resources import find_free_bytes
from autoseg.system.torch_device import choose_device
from autoseg.training.checkpointing.checkpoints import has_state
from autoseg.training.checkpointing.init_from_model import find_start, name_start
from autoseg.training.context import Callback, Length, TrainingContext
from autoseg.training.folds import choose_fold
from autoseg.training.logging.data_wait import advise, measure_waiting
from autoseg.training.logging.metrics_log import read_metrics
from autoseg.training.loss.compound_loss import Loss
from autoseg.training.state import TrainState
from autoseg.training.trainer import train_fold
from autoseg.training.validation.confusion import CaseDice
from autoseg.training.validation.final_validation import validate_fold
from autoseg.training.validation.periodic_validation import BEST_MODEL_FILE_NAME

log = logging.getLogger("autoseg")

CACHE_FRACTION = 0.25  # of the free memory; decompressed cases beyond it are read from the store
MIN_SLICES_PER_RANK = 2  # on a CPU; one costs a rank almost as much


@dataclass(frozen=True)
class TrainingResult:
    """The result of training one fold.

    Attributes:
        folder: The fold's folder, with `model.safetensors`.
        steps: The number of steps done, over all sessions of the run.
        seconds: The time that they took.
        dice: Mean validation Dice by organ; empty where no case was left out of training.
        fraction_waiting_for_data: The fraction of the time; None where its records are lost.
    """

    folder: Path
    steps: int
    seconds: float
    dice: CaseDice
    fraction_waiting_for_data: float | None = None


def train(
    run_folder: Path | str,
    *,
    fold: str | int = "all",
    epochs: int | None = None,
    max_minutes: float | None = None,
    device: str = "auto",
    offline: bool = False,
    start_from: Path | str | None = None,
    loss: Loss | None = None,
    build_network: BuildNetwork | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainingResult:
    """Train one fold of a planned run; the same call continues a run that was stopped.

    On a CPU, one process per core works on each batch; with a loss or network of your own, one process does. Under
    torchrun all processes train together, each on its shard of every step.

    Args:
        run_folder: The folder made by `autoseg.plan`.
        fold: "all" trains on every case and leaves none for validation; 0, 1, .. leave one fold out.
        epochs: The length in epochs; None uses that of the plan.
        max_minutes: The length in minutes of training; the learning rate's schedule ends when the time does.
        device: auto, cpu or cuda.
        offline: Use no network: pretrained weights of the hub come from its cache on this machine.
        start_from: A finished model whose weights a new run begins with as far as they fit, in place of the plan's
            `network.weights`. A run that has begun continues from its own state.
        loss: A function of the network's output and the target that returns named terms, or None for the plan's
            loss. Their sum is minimized, or the term "total" if there is one.
        build_network: A function that takes the plan and returns a network, or None for autoseg's own. Prediction
            needs the same function.
        callbacks: Objects whose methods are called during training, see `autoseg.Callback`.

    Raises:
        UsageError: There is no plan, no such fold, or two lengths; or the fold began from another model.
        OutputError: The fold's folder cannot be written, or the disk is full.
        LockedError: Another run trains this fold, or plans in the run folder.
        CheckpointError: Pretrained weights cannot be loaded or have another SHA-256, the model to start from is
            damaged, or an earlier state cannot be used.
        TrainingError: The loss stays not finite, or the device's memory is too small.
        RankLostError: Another process of this run is gone.

    Example:
        >>> autoseg.plan("my_dataset", "my_run")
        >>> result = autoseg.train("my_run", fold=0, max_minutes=60)
        >>> result.dice
        {'liver': 0.95, 'spleen': 0.93}
    """
    run_folder, fold = Path(run_folder), str(fold)
    plans = read_plans(run_folder / "plans.json")
    length = _choose_length(plans, epochs=epochs, max_minutes=max_minutes)
    torch_device = choose_device(device)
    if device == "auto" and torch_device.type == "cpu" and not rank_name():
        log.info("training on a CPU is slow; --max-minutes M fits the whole schedule into M minutes.")
    num_ranks = 1 if loss or build_network else _num_cpu_ranks(plans, torch_device)
    command = _command(run_folder, fold, epochs=epochs, max_minutes=max_minutes, offline=offline, start=start_from)
    with ExitStack() as stack:
        group = stack.enter_context(start_local_ranks(command, world_size=num_ranks))
        ranks = stack.enter_context(join_ranks(group=group))
        stack.enter_context(_hold(run_folder, ranks, is_shared=True))
        store = CaseStore(run_folder / "preprocessed", data_hash=plans.data.hash())
        folder = run_folder / f"fold_{fold}"
        training, validation, is_seen = choose_fold(run_folder, store, fold=fold)
        has_begun = ranks.broadcast(has_state(folder / STATE_FILE_NAME))
        context = TrainingContext(
            plans=plans,
            folder=folder,
            store=store,
            training_cases=training,
            validation_cases=validation,
            seen_in_training=is_seen,
            length=length,
            device=torch_device,
            ranks=ranks,
            loss=loss,
            build_network=build_network,
            callbacks=tuple(callbacks),
            cache_bytes=int(CACHE_FRACTION * find_free_bytes() / num_local_ranks()),
            offline=offline,
            start=find_start(start_from, folder, plans=plans, fold=fold, has_begun=has_begun),
        )
        ranks.require_equal(_facts(context))
        stack.enter_context(_hold(folder, ranks))
        stack.enter_context(_explained(folder, torch_device))
        _prepare(context, has_begun=has_begun)
        state = train_fold(context)
        dice = validate_fold(state, context)
        return _report(state, context, dice)


def _choose_length(plans: Plans, *, epochs: int | None, max_minutes: float | None) -> Length:
    if epochs is not None and max_minutes is not None:
        raise UsageError("--epochs and --max-minutes: give one of them.")
    if (epochs is not None and epochs < 1) or (max_minutes is not None and not max_minutes > 0):
        raise UsageError("--epochs and --max-minutes: expected numbers above 0.")
    return Length(
        steps=(epochs or plans.training.epochs) * plans.training.steps_per_epoch,
        seconds=None if max_minutes is None else 60.0 * max_minutes,
    )


def _num_cpu_ranks(plans: Plans, device: torch.device) -> int:
    """Return the number of ranks to start: one per core of a CPU, unless torchrun has started this process."""
    if device.type != "cpu" or rank_name():
        return 1
    num_slices = plans.slices_per_step * plans.training.gradient_accumulation
    most = num_slices // max(MIN_SLICES_PER_RANK, plans.memory_clip_slices)
    return max(1, min(torch.get_num_threads(), most))


def _command(
    run_folder: Path,
    fold: str,
    *,
    epochs: int | None,
    max_minutes: float | None,
    offline: bool,
    start: Path | str | None,
) -> list[str]:
    """Return the command of the other ranks of a CPU, as after `python -m`."""
    command = ["autoseg.cli.train", str(run_folder), "--fold", fold, "--device", "cpu"]
    for option, value in (("--epochs", epochs), ("--max-minutes", max_minutes), ("--from", start)):
        command += [] if value is None else [option, str(value)]
    return [*command, "--offline"] if offline else command


def _prepare(context: TrainingContext, *, has_begun: bool) -> None:
    """Remove temporary files of a killed run, check the preprocessed cases, and log what is trained."""
    if context.ranks.is_main:
        for folder in (context.folder, context.folder / "validation"):
            remove_leftovers(folder)
    _refuse_damaged(context)
    if context.ranks.is_main:
        weights = name_start(context.start, context.folder if has_begun else None, context.plans)
        _announce(context, weights=weights)


@contextmanager
def _hold(folder: Path, ranks: Ranks, *, is_shared: bool = False) -> Iterator[None]:
    """Lock a folder for all ranks: rank 0 locks it, and the others wait for that."""
    with ExitStack() as stack:
        if ranks.is_main:
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise OutputError(explain_write_error(error, folder)) from error
            stack.enter_context(
                hold_folder(folder, command="autoseg_train", remedy="Wait for it, or end it.", is_shared=is_shared)
            )
        ranks.barrier()
        yield


def _facts(context: TrainingContext) -> dict[str, Any]:
    """Return the values that must be equal on all ranks."""
    digest = hashlib.sha256(context.plans.model_dump_json().encode()).hexdigest()
    cases = repr((context.training_cases, context.validation_cases)).encode(errors="surrogateescape")
    return {
        "plan (digest of plans.json)": digest,
        "choice of cases (digest)": hashlib.sha256(cases).hexdigest(),
        "length (steps, seconds)": [context.length.steps, context.length.seconds],
        "fold": context.folder.name,
        "kind of device": context.device.type,
        "version of autoseg": __version__,
        "version of torch": torch.__version__,
    }


@contextmanager
def _explained(folder: Path, device: torch.device) -> Iterator[None]:
    """Convert errors of a full disk or memory to errors that say what to do."""
    try:
        yield
    except OSError as error:
        if find_disk_fault(error) is None:
            raise
        raise OutputError(explain_write_error(error, folder)) from error
    except (RuntimeError, MemoryError) as error:  # the parent of torch.OutOfMemoryError
        if not is_out_of_memory(error):
            raise
        message = str(error).partition("\n")[0]
        raise TrainingError(explain_full_memory(device, message, what="the network and its optimizer alone")) from None


def _refuse_damaged(context: TrainingContext) -> None:
    """Read all preprocessed cases of a fold once, each on one rank; damaged ones are removed from the store.

    Raises:
        DatasetError: Some cases are damaged.
    """
    store, ranks = context.store, context.ranks
    cases = list(dict.fromkeys([*context.training_cases, *context.validation_cases]))
    own = ranks.shard(cases)
    checked = track(store.find_damaged(own), what="checking cases", total=len(own))
    gathered = ranks.all_gather([case_id for case_id, is_damaged in checked if is_damaged])
    damaged = [case_id for case_id in cases if any(case_id in of_rank for of_rank in gathered)]
    for case_id in damaged if ranks.is_main else ():
        store.remove(case_id)
    if damaged:
        raise DatasetError(
            f"{len(damaged)} of {len(cases)} preprocessed cases in {store.folder} were damaged since they were "
            "written, and are removed. Run autoseg_plan again: it preprocesses them again.",
            problems=[Problem(case_id, "a file does not have the SHA-256 in its case.json.") for case_id in damaged],
        )


def _announce(context: TrainingContext, *, weights: str) -> None:
    length, world_size = context.length, context.ranks.world_size
    log.info(
        "%s: %d cases, %d organs, %s backbone (%s), %s on %s%s",
        context.folder.name,
        len(context.training_cases),
        len(context.plans.data.organs),
        context.plans.network.backbone,
        weights,
        f"{length.seconds / 60:g} minutes" if length.seconds is not None else f"{length.steps} steps",
        context.device,
        f" by {world_size} ranks" if world_size > 1 else "",
    )


def _report(state: TrainState, context: TrainingContext, dice: CaseDice) -> TrainingResult:
    """Log the best model and whether training waited for data, and return the result."""
    waiting = None
    if context.ranks.is_main:
        best = context.folder / BEST_MODEL_FILE_NAME
        if state.best_dice >= 0 and best.exists():
            log.info("prediction uses the final model; the best Dice on the way, %.3f, is in %s", state.best_dice, best)
        waiting = measure_waiting(read_metrics(context.folder / "metrics.jsonl"))
        advice = advise(waiting, seconds=state.seconds, plans=context.plans, device_type=context.device.type)
        if advice is not None:
            log.warning("%s", advice)
    return TrainingResult(context.folder, state.step, state.seconds, dice, fraction_waiting_for_data=waiting)
