"""Plans on several ranks: they divide reading and preprocessing, and the main rank does everything else.

Owns: which rank reads which case, how measurements reach the main rank, and what the other ranks do meanwhile.
Does not own: what is measured (`planning/fingerprint/`), the order of the steps (`plan.py`), preprocessing itself
(`preprocess.py`).

Each rank writes its measurements into a file of its own beside the cache of the dataset. The main rank takes them into
the cache, and then reads the dataset as if an earlier run had measured everything. So measurements survive a rank that
is killed, and hundreds of megabytes need not pass between ranks.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from autoseg.config.plans import DataPlan
from autoseg.datasets.dataset import CaseFiles, Dataset, read_dataset
from autoseg.distributed.ranks import Ranks
from autoseg.errors import DatasetError, Problem
from autoseg.pipelines.preprocess import preprocess_dataset
from autoseg.planning.fingerprint.case_cache import CaseCache, cache_name
from autoseg.planning.fingerprint.extract import list_values_once, scan_cases
from autoseg.planning.memory_and_disk import bytes_to_scan
from autoseg.planning.multi_dataset.merge_datasets import name_datasets
from autoseg.system.process_pool import default_num_workers


def read_shards(
    roots: Sequence[Path], *, run_folder: Path, num_workers: int | None, ranks: Ranks
) -> dict[str | None, CaseCache]:
    """Measure the cases of datasets, each case on one rank; every rank calls this.

    Args:
        roots: The folders of the datasets.
        run_folder: Contains the caches; the main rank holds its lock.
        num_workers: The number of processes per rank; None divides the machine's cores among its ranks.
        ranks: Two or more ranks.

    Returns:
        The caches by the dataset's name in the run; on the main rank they contain all measurements.
    """
    names: Sequence[str | None] = [None] if len(roots) == 1 else name_datasets(roots)
    caches = {}
    for root, name in zip(roots, names, strict=True):
        path = run_folder / cache_name(name)
        caches[name] = open_cache(path) if ranks.is_main else CaseCache(path)
        dataset = _read_together(root, caches[name], ranks=ranks)
        if dataset is None:
            continue
        own = ranks.shard(dataset.cases)
        share = caches[name].shard_for([case.case_id for case in own], _shard_path(path, ranks.rank))
        scan_cases(
            replace(dataset, cases=tuple(own)),
            num_workers=num_workers or default_num_workers(bytes_to_scan(own)),
            cache=share,
            is_shard=True,
        )
        ranks.barrier()
        if ranks.is_main:
            caches[name] = open_cache(path)
    return caches


@dataclass(frozen=True)
class PreprocessingWork:
    """What all ranks preprocess together.

    Attributes:
        cases: The cases of all ranks.
        plan: The data part of the plan.
        bytes_per_worker: The memory that one process needs for the largest case.
    """

    cases: Sequence[CaseFiles]
    plan: DataPlan
    bytes_per_worker: float


def preprocess_shard(
    work: PreprocessingWork | None, *, store_folder: Path, num_workers: int | None, ranks: Ranks
) -> list[Problem]:
    """Preprocess this rank's shard of the cases; the main rank gives the work, the others None.

    Returns:
        The problems of all ranks, as `preprocess_dataset`.
    """
    work = ranks.broadcast(work)
    return preprocess_dataset(
        work.cases,
        plan=work.plan,
        store_folder=store_folder,
        num_workers=num_workers or default_num_workers(work.bytes_per_worker),
        ranks=ranks,
    )


def _read_together(root: Path, cache: CaseCache, *, ranks: Ranks) -> Dataset | None:
    """Read the layout of a dataset on the main rank, for all.

    None where nothing is usable, which the main rank reports when it checks the dataset.
    """
    dataset: Dataset | None = None
    if ranks.is_main:
        with contextlib.suppress(DatasetError):
            dataset = read_dataset(root, list_values=partial(list_values_once, cache=cache))
        cache.save()
    dataset = ranks.broadcast(dataset)
    if dataset is None:
        return None
    bad = {problem.case_id for problem in dataset.problems if problem.is_error}
    return replace(dataset, cases=tuple(case for case in dataset.cases if case.case_id not in bad))


def _shard_path(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.stem}.{rank}{path.suffix}")


def open_cache(path: Path) -> CaseCache:
    """Open the cache of a dataset with the measurements of all ranks, also those of a run that was killed."""
    cache = CaseCache(path)
    shares = [share for share in path.parent.glob(f"{path.stem}.*{path.suffix}") if _is_shard(share, path)]
    for share in shares:
        cache.take(share)
    if shares:
        cache.save()
    for share in shares:
        share.unlink(missing_ok=True)
    return cache


def _is_shard(share: Path, path: Path) -> bool:
    return share.is_file() and share.name[len(path.stem) + 1 : -len(path.suffix)].isdecimal()
