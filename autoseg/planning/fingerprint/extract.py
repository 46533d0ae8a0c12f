"""Reads and measures all cases of a dataset, except for those that an earlier run has measured.

Owns: `scan_cases`, `list_values_once`, and when a case must be read again.
Does not own: one case (`measure_case.py`), the cache (`case_cache.py`), worker processes (`system/process_pool.py`).
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoseg import __version__
from autoseg.datasets.dataset import CaseFiles, Dataset
from autoseg.datasets.labels import list_label_values
from autoseg.errors import Problem
from autoseg.planning.fingerprint.case_cache import (
    CaseCache,
    CaseEntry,
    ValuesEntry,
    find_states,
    make_entry,
)
from autoseg.planning.fingerprint.measure_case import CaseScanResult, scan_case
from autoseg.system.process_pool import WorkerFailure, map_cases

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class _DueCase:
    """A case that must be read, with the recipe of its measurements."""

    case: CaseFiles
    recipe: str

    @property
    def case_id(self) -> str:
        """Return the name of the case, for messages about its process."""
        return self.case.case_id


def scan_cases(dataset: Dataset, *, num_workers: int, cache: CaseCache) -> list[CaseScanResult]:
    """Scan all cases in parallel, except for those in the cache whose files did not change.

    Args:
        dataset: The dataset.
        num_workers: The number of processes.
        cache: The measurements of earlier runs; those of this run are added to it, also after an interruption.

    Returns:
        The result of each case, in the order of the cases.

    Raises:
        OSError: The cache cannot be written.
    """
    declared = _describe(dataset)
    results = _find_unchanged(dataset, cache=cache)
    due = [_DueCase(case, _recipe(case, declared)) for case in dataset.cases if case.case_id not in results]
    num_same = len(results.keys() - cache.fresh)
    try:
        for item, scanned in map_cases(
            partial(_scan, dataset=dataset), due, num_workers=num_workers, what="reading scans"
        ):
            if isinstance(scanned, WorkerFailure):
                problem = Problem(item.case_id, scanned.message)
                results[item.case_id] = CaseScanResult(item.case_id, None, (problem,))
                continue
            results[item.case_id], entry = scanned
            if entry is not None:
                cache.keep(entry)
        cache.forget_others(results)
    finally:
        cache.save()
    if num_same:
        log.info("%d of %d cases did not change; they were not read again.", num_same, len(dataset.cases))
    return [results[case.case_id] for case in dataset.cases]


def find_changed(dataset: Dataset, *, cache: CaseCache) -> list[CaseFiles]:
    """Return the cases whose files changed since the cache was written, or that it does not contain."""
    unchanged = _find_unchanged(dataset, cache=cache)
    return [case for case in dataset.cases if case.case_id not in unchanged]


def _find_unchanged(dataset: Dataset, *, cache: CaseCache) -> dict[str, CaseScanResult]:
    declared = _describe(dataset)
    results = {}
    for case in dataset.cases:
        entry = cache.find(case.case_id, recipe=_recipe(case, declared))
        result = None if entry is None else _result(entry, case, dataset=dataset)
        if entry is not None and result is not None and entry.files == find_states(_paths(case)):
            results[case.case_id] = result
    return results


def list_values_once(path: Path, *, cache: CaseCache) -> Sequence[int]:
    """List the values of a label map as `list_label_values` does, but read it only if it changed.

    Raises:
        ScanFileError: It cannot be read.
    """
    name = _digest(str(path.absolute()))
    before = find_states([path])
    entry = cache.find_values(name)
    if entry is not None and before == (entry.file,):
        return entry.values
    values = list_label_values(path)
    if before is not None and before == find_states([path]):
        cache.keep_values(ValuesEntry(name=name, file=before[0], values=tuple(values)))
    return values


def _scan(due: _DueCase, *, dataset: Dataset) -> tuple[CaseScanResult, CaseEntry | None]:
    """Read a case in a worker; there is no entry if a file changed while it was read."""
    paths = _paths(due.case)
    before = find_states(paths)
    result = scan_case(due.case, dataset=dataset)
    if before is None or before != find_states(paths):
        return result, None
    return result, make_entry(result, recipe=due.recipe, files=before)


def _result(entry: CaseEntry, case: CaseFiles, *, dataset: Dataset) -> CaseScanResult | None:
    try:
        return entry.to_result(patient_id=case.patient_id, num_channels=len(dataset.channel_names))
    except ValueError:
        return None  # by chance or on purpose its parts do not belong together: read the case again


def _describe(dataset: Dataset) -> str:
    """Return everything about the dataset that the measurements of a case depend on."""
    organs = [(organ.name, organ.value) for organ in dataset.labels.organs]
    return repr((__version__, dataset.channel_names, organs, dataset.labels.ignore_value))


def _recipe(case: CaseFiles, declared: str) -> str:
    """Return a digest of everything that the measurements of a case depend on, except for its files."""
    names = [str(path.absolute()) for path in _paths(case)]
    recipe = repr((declared, case.case_id, names, case.volumes))
    return _digest(recipe)


def _digest(text: str) -> str:
    """Return a digest of text, so that the cache contains no path of this machine."""
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _paths(case: CaseFiles) -> Sequence[Path]:
    """List the files of a case, each once; several channels may be in one file."""
    return [*dict.fromkeys(case.image_paths), *([] if case.label_path is None else [case.label_path])]
