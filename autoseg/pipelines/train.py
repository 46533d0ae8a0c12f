"""`autoseg.train`, the library call behind `autoseg_train`: folds of a run folder, one after the other.

Owns: which cases a fold has, and whether they are whole; the folder's lock.
Does not own: the training (`trainer.py`), the validation at its end (`validation/final_validation.py`).
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autoseg.config.plans import Plans, read_plans
from autoseg.distributed.ranks import Ranks, join_ranks, num_local_ranks
from autoseg.errors import DatasetError, OutputError, Problem, TrainingError, UsageError
from autoseg.network.weights.model_file import STATE_FILE_NAME
from autoseg.preprocessing.store import CaseStore
from autoseg.system.atomic_files import explain_write_error, find_disk_fault, remove_leftovers
from autoseg.system.file_lock import hold_folder
from autoseg.system.progress import track
from autoseg.system.resources import find_free_bytes
from autoseg.system.torch_device import choose_device, is_out_of_memory
from autoseg.training.checkpointing.checkpoints import has_state
from autoseg.training.checkpointing.init_from_model import find_start, name_start
from autoseg.training.fold_list import read_folds
from autoseg.training.gradients import explain_full_memory
from autoseg.training.logging.data_wait import advise, share_waiting
from autoseg.training.logging.metrics_log import read_metrics
from autoseg.training.state import TrainState
from autoseg.training.trainer import Length, train_fold
from autoseg.training.validation.confusion import CaseDice
from autoseg.training.validation.final_validation import validate_finally
from autoseg.training.validation.periodic_validation import BEST_MODEL_FILE_NAME, FoldData, take_turns

log = logging.getLogger("autoseg")

DEFAULT_CACHE_SHARE = 0.25  # of the memory that is free; decompressed cases beyond it are read from the store
NUM_MONITORED_WITHOUT_VALIDATION = 4


@dataclass(frozen=True)
class TrainingResult:
    """What one fold's training came to.

    Attributes:
        folder: With `model.safetensors`.
        steps: Done, over all sittings.
        seconds: Of training.
        dice: Mean validation Dice by organ; empty where no case was left out of training.
        share_waiting_for_data: Of the time of all sittings; None where their records are lost.
    """

    folder: Path
    steps: int
    seconds: float
    dice: CaseDice
    share_waiting_for_data: float | None = None


def train(
    run_folder: Path | str,
    *,
    fold: str = "all",
    epochs: int | None = None,
    max_minutes: float | None = None,
    device: str = "auto",
    offline: bool = False,
    start_from: Path | str | None = None,
) -> TrainingResult:
    """Train one fold of a planned run; the same call continues a run that was stopped.

    Under torchrun all processes train together, each on its share of every step.

    Args:
        run_folder: Made by `autoseg.plan`.
        fold: "all" trains on every case and leaves none for validation; "0", "1", .. leave one fold out.
        epochs: Length in epochs; by default what the plan says.
        max_minutes: Length in minutes of training; the learning rate's schedule ends when the time does.
        device: auto, cpu or cuda.
        offline: Ask no network; pretrained weights of the hub come from its cache on this machine.
        start_from: A finished model, whose weights a new run begins with as far as they fit, in place of the plan's
            `network.weights`. A run that has begun goes on from its own state.

    Raises:
        UsageError: There is no plan, no such fold, or two lengths; or the fold has begun from another model.
        OutputError: The fold's folder cannot be written, or the disk is full.
        LockedError: Another run trains this fold, or plans in the run folder.
        CheckpointError: Pretrained weights cannot be had or have another SHA-256, the model to begin from is damaged,
            or an earlier state cannot be used.
        TrainingError: The loss stays not finite, or the device's memory is too small.
        RankLostError: Another process of torchrun is gone, or ended early.
    """
    with join_ranks() as ranks:
        return _train(
            Path(run_folder),
            fold=fold,
            epochs=epochs,
            max_minutes=max_minutes,
            device=device,
            offline=offline,
            start_from=start_from,
            ranks=ranks,
        )


def _train(
    run_folder: Path,
    *,
    fold: str,
    epochs: int | None,
    max_minutes: float | None,
    device: str,
    offline: bool,
    start_from: Path | str | None,
    ranks: Ranks,
) -> TrainingResult:
    if epochs is not None and max_minutes is not None:
        raise UsageError("--epochs and --max-minutes: give one of them.")
    if (epochs is not None and epochs < 1) or (max_minutes is not None and not max_minutes > 0):
        raise UsageError("--epochs and --max-minutes: expected numbers above 0.")
    torch_device = choose_device(device)
    if device == "auto" and torch_device.type == "cpu" and ranks.leads:
        log.info("training on a CPU is slow; --max-minutes M fits the whole schedule into M minutes.")
    read_plans(run_folder / "plans.json")  # a folder without a plan says so, rather than that it cannot be locked
    with _hold(run_folder, ranks, is_shared=True):
        plans = read_plans(run_folder / "plans.json")
        store = CaseStore(run_folder / "preprocessed", data_hash=plans.data.hash())
        data = replace(choose_fold(run_folder, store, fold=fold), ranks=ranks)
        has_begun = ranks.from_lead(has_state(data.folder / STATE_FILE_NAME))
        start = find_start(start_from, data.folder, plans=plans, fold=fold, has_begun=has_begun)
        length = Length(
            steps=(epochs or plans.training.epochs) * plans.training.steps_per_epoch,
            seconds=None if max_minutes is None else 60.0 * max_minutes,
        )
        ranks.agree(_facts(data, plans, length, kind=torch_device.type))
        if ranks.leads:
            try:
                data.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(explain_write_error(error, data.folder)) from error
        with _hold(data.folder, ranks), _explained(data.folder, torch_device):
            if ranks.leads:
                for folder in (data.folder, data.folder / "validation"):
                    remove_leftovers(folder)
            _refuse_damaged(data)
            if ranks.leads:
                weights = name_start(start, data.folder if has_begun else None, plans)
                _announce(data, plans, length, weights=weights, device=str(torch_device))
            state = train_fold(
                data,
                plans=plans,
                length=length,
                device=torch_device,
                cache_bytes=_cache_bytes(),
                offline=offline,
                start=start,
            )
            dice = validate_finally(state, data, plans=plans)
            share = None
            if ranks.leads:
                _announce_best(state, data)
                share = share_waiting(read_metrics(data.folder / "metrics.jsonl"))
    advice = None if share is None else advise(share, seconds=state.seconds, plans=plans, device_type=torch_device.type)
    if advice is not None:
        log.warning("%s", advice)
    return TrainingResult(data.folder, state.step, state.seconds, dice, share_waiting_for_data=share)


@contextmanager
def _hold(folder: Path, ranks: Ranks, *, is_shared: bool = False) -> Iterator[None]:
    """Hold a folder, for all ranks, by the first one; the others wait until it has it."""
    with ExitStack() as stack:
        if ranks.leads:
            stack.enter_context(
                hold_folder(folder, command="autoseg_train", remedy="Wait for it, or end it.", is_shared=is_shared)
            )
        ranks.wait()
        yield


def _facts(data: FoldData, plans: Plans, length: Length, *, kind: str) -> dict[str, Any]:
    """Say what all ranks must have in common."""
    digest = hashlib.sha256(plans.model_dump_json().encode()).hexdigest()
    cases = hashlib.sha256(repr((data.training, data.monitored)).encode(errors="surrogateescape")).hexdigest()
    return {
        "plan (digest of plans.json)": digest,
        "choice of cases (digest)": cases,
        "length (steps, seconds)": [length.steps, length.seconds],
        "fold": data.folder.name,
        "kind of device": kind,
        "version of autoseg": version("autoseg"),
        "version of torch": torch.__version__,
    }


@contextmanager
def _explained(folder: Path, device: torch.device) -> Iterator[None]:
    """Turn what the machine lacks, wherever it shows, into errors that say what to do."""
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


def choose_fold(run_folder: Path, store: CaseStore, *, fold: str) -> FoldData:
    """Choose the cases of a fold from `splits.json`.

    Raises:
        UsageError: There is no such fold or no case in it, or `splits.json` is not as `read_folds` expects.
    """
    folds = read_folds(run_folder / "splits.json", stored=set(store.case_ids()))
    numbered = {str(number): one for number, one in enumerate(folds)}
    if fold == "all":
        training = sorted({case for one in folds for case in (*one.train, *one.validation)})
        monitored, seen = take_turns(training, store)[:NUM_MONITORED_WITHOUT_VALIDATION], True
    elif fold in numbered:
        training, monitored, seen = list(numbered[fold].train), list(numbered[fold].validation), False
    else:
        raise UsageError(f"--fold {fold}: this run has the folds {', '.join(numbered)}, and all. Name one of them.")
    if not training:
        raise UsageError(
            f"{run_folder / 'splits.json'}: fold {fold} has no case to train on. Give it cases, or delete the file and "
            "run autoseg_plan again."
        )
    return FoldData(
        folder=run_folder / f"fold_{fold}",
        store=store,
        training=tuple(training),
        monitored=tuple(monitored),
        seen_in_training=seen,
    )


def _refuse_damaged(data: FoldData) -> None:
    """Read all preprocessed cases of a fold once, each by one rank; a damaged one is taken out of the store.

    Raises:
        DatasetError: Some are damaged.
    """
    cases = list(dict.fromkeys([*data.training, *data.monitored]))
    own = data.ranks.share(cases)
    checked = track(data.store.find_damaged(own), what="checking cases", total=len(own))
    found = data.ranks.gather([case_id for case_id, is_damaged in checked if is_damaged])
    damaged = [case_id for case_id in cases if any(case_id in of_rank for of_rank in found)]
    for case_id in damaged if data.ranks.leads else ():
        data.store.remove(case_id)
    if damaged:
        raise DatasetError(
            f"{len(damaged)} of {len(cases)} preprocessed cases in {data.store.folder} were damaged since they were "
            "written, and are removed. Run autoseg_plan again: it preprocesses them anew.",
            problems=[Problem(case_id, "a file does not have the SHA-256 in its case.json.") for case_id in damaged],
        )


def _announce_best(state: TrainState, data: FoldData) -> None:
    path = data.folder / BEST_MODEL_FILE_NAME
    if state.best_dice >= 0 and path.exists():
        log.info(
            "prediction uses the final model; the best Dice on the way, %.3f, was that of %s", state.best_dice, path
        )


def _announce(data: FoldData, plans: Plans, length: Length, *, weights: str, device: str) -> None:
    how_long = f"{length.seconds / 60:g} minutes" if length.seconds is not None else f"{length.steps} steps"
    by = f" by {data.ranks.size} ranks" if data.ranks.size > 1 else ""
    log.info(
        "%s: %d cases, %d organs, %s backbone (%s), %s on %s%s",
        data.folder.name,
        len(data.training),
        len(plans.data.organs),
        plans.network.backbone,
        weights,
        how_long,
        device,
        by,
    )


def _cache_bytes() -> int:
    return int(DEFAULT_CACHE_SHARE * find_free_bytes() / num_local_ranks())
