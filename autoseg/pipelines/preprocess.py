"""Preprocesses all cases of a dataset into the store.

Owns: which cases are preprocessed again, and in how many processes.
Does not own: the steps (`preprocessing/pipeline.py`), the files (`store.py`), worker processes
(`system/process_pool.py`).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from autoseg.config.plans import DataPlan
from autoseg.datasets.dataset import CaseFiles, read_channels
from autoseg.datasets.partial_labels import annotated_indices
from autoseg.distributed.ranks import ONE_RANK, Ranks
from autoseg.errors import AutosegError, OutputError, Problem
from autoseg.io.image import read_labels
from autoseg.preprocessing.pipeline import CaseSource, preprocess_case
from autoseg.preprocessing.store import CaseStore
from autoseg.system.atomic_files import explain_write_error, fault_of, find_disk_fault
from autoseg.system.process_pool import WorkerFailure, map_cases

BYTES_WORTH_A_PROCESS = 4 << 20  # compressed; about half a second of work, when starting workers takes a tenth


def preprocess_dataset(
    cases: Sequence[CaseFiles], *, plan: DataPlan, store_folder: Path, num_workers: int, ranks: Ranks = ONE_RANK
) -> list[Problem]:
    """Preprocess every case that is not current in the store; a run that was killed continues where it stopped.

    A case is current if it is complete, and was made with this plan from files of the same size and modification time.
    Cases of the store that are not among `cases` stay.

    Args:
        cases: The cases, in the same order on all ranks.
        plan: The data part of the plan.
        store_folder: The folder of the store.
        num_workers: The number of processes of this rank.
        ranks: The ranks that divide the cases.

    Returns:
        One problem for each case that failed on any rank, in the order of the cases; the others are in the store.

    Raises:
        OutputError: The store's disk is full or broken; finished cases stay.
    """
    if ranks.is_main:
        CaseStore(store_folder).remove_leftovers()
    ranks.barrier()
    own = _preprocess_share(ranks.shard(cases), plan=plan, store_folder=store_folder, num_workers=num_workers)
    problems = {problem.case_id: problem for of_rank in ranks.all_gather(own) for problem in of_rank}
    return [problems[case.case_id] for case in cases if case.case_id in problems]


def _preprocess_share(
    cases: Sequence[CaseFiles], *, plan: DataPlan, store_folder: Path, num_workers: int
) -> list[Problem]:
    store = CaseStore(store_folder)
    data_hash = plan.hash()
    problems: list[Problem] = []
    due: list[CaseFiles] = []
    for case in cases:
        try:
            if not store.is_current(case.case_id, data_hash, sources=_sources(case)):
                due.append(case)
        except AutosegError as error:
            problems.append(Problem(case.case_id, str(error)))
        except OSError as error:
            problems.append(Problem(case.case_id, fault_of(error)))
    num_workers = num_workers if sum(map(_num_bytes, due)) > BYTES_WORTH_A_PROCESS else min(num_workers, 1)
    function = partial(_preprocess_to_store, plan=plan, store_folder=Path(store_folder), data_hash=data_hash)
    for case, result in map_cases(function, due, num_workers=num_workers, what="preprocessing"):
        if isinstance(result, WorkerFailure):
            if result.is_of_all:
                raise OutputError(result.message)
            problems.append(Problem(case.case_id, result.message))
    return problems


def _preprocess_to_store(case: CaseFiles, *, plan: DataPlan, store_folder: Path, data_hash: str) -> None:
    sources = _sources(case)  # before reading: a file changed meanwhile makes the case stale
    channels = read_channels(case)
    labels = None if case.label_path is None else read_labels(case.label_path)
    source = CaseSource(case.dataset, annotated_indices(plan, case.dataset, case.annotated))
    result = preprocess_case(channels, plan=plan, labels=labels, source=source)
    try:
        CaseStore(store_folder).write(case.case_id, result, data_hash, sources=sources)
    except OSError as error:
        if find_disk_fault(error) is None:
            raise
        raise OutputError(explain_write_error(error, store_folder)) from error


def _paths(case: CaseFiles) -> list[Path]:
    """List the files of a case, each once; several channels may be in one file."""
    return [*dict.fromkeys(case.image_paths), *([] if case.label_path is None else [case.label_path])]


def _sources(case: CaseFiles) -> list[str]:
    """Describe each file by name, size and modification time, which show a change without reading the file."""
    facts = [(path.name, path.stat()) for path in _paths(case)]
    channels = [f"volumes {case.volumes}"] if case.volumes else []
    annotated = [] if case.annotated is None else [f"annotated {sorted(case.annotated)}"]
    return [*(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in facts), *channels, *annotated]


def _num_bytes(case: CaseFiles) -> int:
    return sum(path.stat().st_size for path in _paths(case))
