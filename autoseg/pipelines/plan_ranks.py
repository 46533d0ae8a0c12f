"""Plans on several ranks: they divide reading and preprocessing, and the main rank does everything else.

Owns: which rank reads which case, and how measurements reach the main rank.
Does not own: what is measured (`planning/fingerprint/`), the order of the steps (`plan.py`), preprocessing itself
(`preprocess.py`).

The main rank adds the measurements of all ranks to the cache of the dataset, and then checks the dataset as if an
earlier run had measured everything.
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
from autoseg.planning.fingerprint.extract import find_changed, list_values_once, scan_cases
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
        cache = caches[name] = CaseCache(run_folder / cache_name(name) if ranks.is_main else None)
        dataset = _read_changed(root, cache, ranks=ranks)
        own = CaseCache(None)
        if dataset is not None:
            shard = replace(dataset, cases=tuple(ranks.shard(dataset.cases)))
            scan_cases(shard, num_workers=num_workers or default_num_workers(bytes_to_scan(shard.cases)), cache=own)
        for entry in (entry for of_rank in ranks.all_gather(own.entries()) for entry in of_rank):
            cache.keep(entry)
        cache.save()
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
        The problems of all ranks, as from `preprocess_dataset`.
    """
    work = ranks.broadcast(work)
    return preprocess_dataset(
        work.cases,
        plan=work.plan,
        store_folder=store_folder,
        num_workers=num_workers or default_num_workers(work.bytes_per_worker),
        ranks=ranks,
    )


def _read_changed(root: Path, cache: CaseCache, *, ranks: Ranks) -> Dataset | None:
    """Read the layout of a dataset on the main rank, and return on every rank the cases that must be measured.

    None means that nothing is usable, which the main rank reports when it checks the dataset.
    """
    dataset: Dataset | None = None
    if ranks.is_main:
        with contextlib.suppress(DatasetError):
            dataset = read_dataset(root, list_values=partial(list_values_once, cache=cache))
            bad = {problem.case_id for problem in dataset.problems if problem.is_error}
            cases = [case for case in find_changed(dataset, cache=cache) if case.case_id not in bad]
            dataset = replace(dataset, cases=tuple(cases))
    return ranks.broadcast(dataset)
