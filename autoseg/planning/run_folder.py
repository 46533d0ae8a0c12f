"""Locks the run folder while it is planned, and writes its plan and folds only if they changed.

Owns: `own_folder`; when `plans.json` and `splits.json` stay as they are.
Does not own: their content (`planner.py`, `splits.py`), the order of the steps (`pipelines/plan.py`).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoseg.config.plans import Plans, read_plans, write_plans
from autoseg.errors import OutputError, PlanError, UsageError
from autoseg.planning.fingerprint.fingerprint import Fingerprint
from autoseg.planning.splits import make_splits
from autoseg.system.atomic_files import (
    atomic_path,
    explain_write_error,
    find_disk_fault,
    read_json,
    remove_leftovers,
    write_json,
)
from autoseg.system.file_lock import hold_folder

log = logging.getLogger("autoseg")


@contextmanager
def own_folder(run_folder: Path, *, dataset_roots: Sequence[Path]) -> Iterator[None]:
    """Lock the run folder for this process; a folder that cannot be written is an error before any work.

    Raises:
        UsageError: The folder is inside the dataset, or cannot be written.
        LockedError: Another run has the lock.
        OutputError: The disk is full, or broken.
    """
    folder = run_folder.resolve()
    if any(root.resolve() in (folder, *folder.parents) for root in dataset_roots):
        raise UsageError(f"-o {run_folder} lies in the dataset, which is never written to. Choose another folder.")
    try:
        with atomic_path(folder / "probe.tmp") as probe:
            probe.write_bytes(b"probe")
        (folder / "probe.tmp").unlink()
        with hold_folder(folder, command="autoseg_plan", remedy="Wait for it, end it, or choose another -o."):
            remove_leftovers(folder)
            yield
    except OSError as error:
        if find_disk_fault(error) is not None:
            raise OutputError(explain_write_error(error, run_folder)) from error
        place = error.filename or run_folder
        raise UsageError(
            f"{place} cannot be read or written: {error.strerror or error}. Free space or choose another -o."
        ) from error


def earlier_plans(run_folder: Path) -> Plans | None:
    """Return the plans of an earlier run of the command, or None if there are none that can be read."""
    try:
        return read_plans(run_folder / "plans.json")
    except (PlanError, UsageError):
        return None


def write_plans_if_new(plans: Plans, run_folder: Path) -> None:
    """Write `plans.json` unless it contains these plans already; other plans make the old splits invalid."""
    path = run_folder / "plans.json"
    try:
        is_new = bool(read_json(path) != plans.model_dump(mode="json"))
    except UsageError:
        is_new = True
    if is_new:
        if path.exists():
            log.info("the plan changed; plans.json and splits.json are written again.")
        (run_folder / "splits.json").unlink(missing_ok=True)
        write_plans(plans, path)


@dataclass(frozen=True)
class _SplitCase:
    case_id: str
    patient_id: str


def write_splits_if_new(fingerprint: Fingerprint, *, plans: Plans, used: Sequence[str], run_folder: Path) -> None:
    """Write the folds; folds of the same cases stay as they are, so that a user may edit them."""
    path, chosen = run_folder / "splits.json", set(used)
    if _split_cases(path) == chosen:
        return
    cases = [case for case in fingerprint.cases if case.case_id in chosen]
    groups = fingerprint.patient_groups()
    splits = make_splits(
        [_SplitCase(case.case_id, groups[case.case_id]) for case in cases],
        organs_of_case={case.case_id: [organ.name for organ in case.organs] for case in cases},
        num_folds=plans.training.num_folds,
        seed=plans.training.seed,
    )
    write_json(path, splits)


def _split_cases(path: Path) -> set[str] | None:
    """Return the cases in a file of folds, or None if there is no valid file."""
    try:
        folds = read_json(path)
        return {name for fold in folds for part in ("train", "validation") for name in fold[part]} if folds else None
    except (UsageError, TypeError, KeyError):
        return None
