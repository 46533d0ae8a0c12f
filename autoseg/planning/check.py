"""Everything that is wrong with a dataset, and its fingerprint, read at most once for the same files.

Owns: `DatasetCheck`, `check_dataset`, `check_once`.
Does not own: the layout (`dataset.py`), the measurements (`fingerprint.py`), what stops a run (`command.py`).
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from autoseg.dataset import Dataset, read_dataset
from autoseg.errors import Problem, UsageError
from autoseg.files import read_json, write_json
from autoseg.planning.fingerprint import Fingerprint, make_fingerprint
from autoseg.planning.report import read_problems, stamp_files
from autoseg.planning.resources import bytes_to_scan
from autoseg.workers import default_num_workers

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class DatasetCheck:
    """What reading a dataset gave.

    Attributes:
        dataset: As declared.
        fingerprint: Of the usable cases.
        layout: Problems of files and declarations.
        contents: Problems inside the scans.
    """

    dataset: Dataset
    fingerprint: Fingerprint
    layout: tuple[Problem, ...]
    contents: tuple[Problem, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems, the dataset's own first."""
        return self.layout + self.contents

    @property
    def num_cases(self) -> int:
        """Cases that the dataset names, usable or not."""
        return len({case.case_id for case in self.dataset.cases} | {p.case_id for p in self.problems if p.case_id})


def check_dataset(dataset_root: Path, *, num_workers: int | None = None) -> DatasetCheck:
    """Read a dataset and everything in it; nothing is written.

    Raises:
        DatasetError: Nothing is usable; carries all problems.
    """
    return _check(_read(Path(dataset_root)), num_workers=num_workers)


def check_once(root: Path, *, run_folder: Path, num_workers: int | None) -> tuple[DatasetCheck, str]:
    """Check a dataset and save its fingerprint, or take what was saved if no file changed since.

    Returns:
        The check and the stamp of the files.

    Raises:
        DatasetError: Nothing is usable; carries all problems.
    """
    dataset = _read(root)
    stamp = stamp_files(dataset)
    fingerprint_path = run_folder / "fingerprint.json"
    report_path = run_folder / "dataset_report.json"
    contents = read_problems(report_path, stamp=stamp, stage="contents")
    fingerprint = None if contents is None else _read_fingerprint(fingerprint_path)
    if contents is not None and fingerprint is not None:
        log.info("no file of %s changed; its fingerprint is kept.", dataset.name)
        return DatasetCheck(dataset, fingerprint, dataset.problems, contents), stamp
    report_path.unlink(missing_ok=True)  # until the new fingerprint is there, no report may vouch for it
    check = _check(dataset, num_workers=num_workers)
    write_json(fingerprint_path, check.fingerprint.model_dump(mode="json"))
    return check, stamp


def _read(root: Path) -> Dataset:
    dataset = read_dataset(root)
    return replace(dataset, problems=tuple(shorten_paths(problem, root=root) for problem in dataset.problems))


def _check(dataset: Dataset, *, num_workers: int | None) -> DatasetCheck:
    bad = {problem.case_id for problem in dataset.problems if problem.is_error}
    readable = replace(dataset, cases=tuple(case for case in dataset.cases if case.case_id not in bad))
    workers = num_workers or default_num_workers(bytes_to_scan(readable.cases))
    fingerprint, contents = make_fingerprint(readable, num_workers=workers)
    shown = tuple(shorten_paths(problem, root=dataset.root) for problem in contents)
    return DatasetCheck(dataset, fingerprint, dataset.problems, shown)


def shorten_paths(problem: Problem, *, root: Path) -> Problem:
    """Shorten paths to what lies below the dataset's folder."""
    message = problem.message.replace(f"{root.resolve()}/", "").replace(f"{root}/", "")
    return replace(problem, message=message)


def _read_fingerprint(path: Path) -> Fingerprint | None:
    try:
        return Fingerprint.model_validate(read_json(path))
    except (UsageError, ValidationError):
        return None  # absent, damaged or of another version: the scans are read again
