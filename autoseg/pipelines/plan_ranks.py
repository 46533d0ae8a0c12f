"""Plans on several ranks: they divide reading and preprocessing, and the main rank does everything else.

Owns: which rank reads which case, how measurements reach the main rank, and what the other ranks do meanwhile.
Does not own: what is measured (`planning/fingerprint/`), the order of the steps (`plan.py`), preprocessing itself
(`preprocess.py`).

Each rank writes its measurements into a file of its own beside the cache of the dataset. The main rank takes them into
the cache, and then reads the dataset as if an earlier run had measured everything. So measurements survive a rank that
is killed, and hundreds of megabytes need not pass through torch's store.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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
        dataset = _read_together(root, path, caches[name], ranks=ranks)
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


def broadcast_work(cases: Sequence[CaseFiles], *, plan: DataPlan, bytes_a_worker: float, ranks: Ranks) -> None:
    """Broadcast to the other ranks what is to be preprocessed."""
    ranks.broadcast(
        {
            "plan": plan.model_dump(mode="json"),
            "cases": [_to_json(case) for case in cases],
            "bytes_a_worker": bytes_a_worker,
        }
    )


def preprocess_shard(store_folder: Path, *, num_workers: int | None, ranks: Ranks) -> list[Problem]:
    """Preprocess this rank's shard of the cases that the main rank broadcasts."""
    told = ranks.broadcast(None)
    return preprocess_dataset(
        [_from_json(case) for case in told["cases"]],
        plan=DataPlan.model_validate(told["plan"]),
        store_folder=store_folder,
        num_workers=num_workers or default_num_workers(told["bytes_a_worker"]),
        ranks=ranks,
    )


def _read_together(root: Path, path: Path, cache: CaseCache, *, ranks: Ranks) -> Dataset | None:
    """Read the layout of a dataset; only the main rank reads label maps where labels have no names.

    None where nothing is usable, which the main rank reports when it checks the dataset.
    """
    dataset = None
    if ranks.is_main:
        with contextlib.suppress(DatasetError):
            dataset = read_dataset(root, list_values=partial(list_values_once, cache=cache))
        cache.save()
    if not ranks.broadcast(dataset is not None):
        return None
    if dataset is None:
        dataset = read_dataset(root, list_values=partial(list_values_once, cache=CaseCache(path)))
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


def _to_json(case: CaseFiles) -> dict[str, Any]:
    return {
        "case_id": case.case_id,
        "image_paths": [str(path.absolute()) for path in case.image_paths],
        "label_path": None if case.label_path is None else str(case.label_path.absolute()),
        "patient_id": case.patient_id,
        "volumes": list(case.volumes),
        "annotated": None if case.annotated is None else list(case.annotated),
        "dataset": case.dataset,
    }


def _from_json(content: dict[str, Any]) -> CaseFiles:
    return CaseFiles(
        **{
            **content,
            "image_paths": tuple(map(Path, content["image_paths"])),
            "label_path": None if content["label_path"] is None else Path(content["label_path"]),
            "volumes": tuple(content["volumes"]),
            "annotated": None if content["annotated"] is None else tuple(content["annotated"]),
        }
    )
