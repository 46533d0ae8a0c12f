"""All cases of a dataset read and measured, but for those that an earlier run has measured.

Owns: `scan_cases`, `list_values_once`, and what beside its files decides whether a case must be read again.
Does not own: one case (`measure_case.py`), what is kept (`case_cache.py`), worker processes (`system/process_pool.py`).
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
from autoseg.planning.fingerprint.case_cache import CaseCache, CaseEntry, make_entry, make_values_entry
from autoseg.planning.fingerprint.file_state import are_unchanged, note_again, note_files
from autoseg.planning.fingerprint.measure_case import CaseScanResult, scan_case
from autoseg.system.process_pool import WorkerFailure, map_cases

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class _Looked:
    """What came of it: the result, what is to be kept of it, and whether its files hold the same bytes as before."""

    result: CaseScanResult
    entry: CaseEntry | None
    is_same: bool


@dataclass(frozen=True)
class _Due:
    """A case that size and times of its files do not vouch for, with what was kept of it."""

    case: CaseFiles
    recipe: str
    entry: CaseEntry | None

    @property
    def case_id(self) -> str:
        """Name the case, for messages about its process."""
        return self.case.case_id


def scan_cases(dataset: Dataset, *, num_workers: int, cache: CaseCache, is_share: bool = False) -> list[CaseScanResult]:
    """Scan all cases in parallel, but for those that are kept and whose files are the same.

    Args:
        dataset: Its cases, channels and labels.
        num_workers: Processes.
        cache: What earlier runs measured; holds what this one did afterwards, also after an interruption.
        is_share: Whether this is a rank's share of the dataset, of which no more is said.

    Returns:
        A result for each case, in the order of the cases.

    Raises:
        OSError: The cache cannot be written, and is not optional.
    """
    results: dict[str, CaseScanResult] = {}
    due = []
    declared = _describe(dataset)
    for case in dataset.cases:
        recipe = _recipe(case, declared)
        entry = cache.find(case.case_id, recipe=recipe)
        result = None if entry is None else _result(entry, case, dataset=dataset)
        if entry is not None and result is not None and are_unchanged(entry.files, _paths(case)):
            results[case.case_id] = result
        else:
            due.append(_Due(case, recipe, None if result is None else entry))
    num_same = len(results.keys() - cache.fresh)
    try:
        look = partial(_look, dataset=dataset)
        for item, looked in map_cases(look, due, num_workers=num_workers, what="reading scans"):
            if isinstance(looked, WorkerFailure):
                problem = Problem(item.case_id, looked.message)
                results[item.case_id] = CaseScanResult(item.case_id, None, (problem,))
                continue
            results[item.case_id] = looked.result
            num_same += looked.is_same and item.case_id not in cache.fresh
            if looked.entry is not None:
                cache.keep(looked.entry)
        cache.forget_others(results)
    finally:
        cache.save()
    if num_same and not is_share:
        log.info("%d of %d cases did not change; they were not read again.", num_same, len(dataset.cases))
    return [results[case.case_id] for case in dataset.cases]


def list_values_once(path: Path, *, cache: CaseCache) -> Sequence[int]:
    """List the values of a label map as `list_label_values` does, but read it only if it changed.

    Raises:
        ScanFileError: It cannot be read.
    """
    name = "/".join(path.parts[-2:])
    entry = cache.find_values(name)
    if entry is not None and (same := note_again([entry.file], [path])) is not None:
        if same != (entry.file,):
            cache.keep_values(entry.model_copy(update={"file": same[0]}))
        return entry.values
    files = note_files([path])
    values = list_label_values(path)
    if files is not None and note_again(files, [path]) is not None:
        new = make_values_entry(name, file=files[0], values=values)
        if new is not None:
            cache.keep_values(new)
    return values


def _look(due: _Due, *, dataset: Dataset) -> _Looked:
    """Compare the bytes with those of an earlier run, and read the case if they differ; runs in a worker.

    There is no entry where a file changed while it was read.
    """
    paths = _paths(due.case)
    same = None if due.entry is None else note_again(due.entry.files, paths)
    if due.entry is not None and same is not None:
        entry = due.entry.model_copy(update={"files": same})
        result = _result(entry, due.case, dataset=dataset)
        assert result is not None
        return _Looked(result, entry, is_same=True)
    files = note_files(paths)
    result = scan_case(due.case, dataset=dataset)
    if files is None or note_again(files, paths) is None:
        return _Looked(result, None, is_same=False)
    return _Looked(result, make_entry(result, recipe=due.recipe, files=files), is_same=False)


def _result(entry: CaseEntry, case: CaseFiles, *, dataset: Dataset) -> CaseScanResult | None:
    try:
        return entry.to_result(patient_id=case.patient_id, num_channels=len(dataset.channel_names))
    except ValueError:
        return None  # by chance or on purpose its parts do not belong together: read the case again


def _describe(dataset: Dataset) -> str:
    """Say what decides, in every case, what is measured and said about it."""
    organs = [(organ.name, organ.value) for organ in dataset.labels.organs]
    return repr((__version__, dataset.channel_names, organs, dataset.labels.ignore_value))


def _recipe(case: CaseFiles, declared: str) -> str:
    """Digest what decides, beside the content of its files, what is measured of a case and said about it."""
    names = ["/".join(path.parts[-2:]) for path in _paths(case)]  # as messages name them
    recipe = repr((declared, case.case_id, names, case.volumes))
    return hashlib.blake2b(recipe.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _paths(case: CaseFiles) -> Sequence[Path]:
    """List the files of a case once each; several channels may lie in one."""
    return [*dict.fromkeys(case.image_paths), *([] if case.label_path is None else [case.label_path])]
