"""Finds everything that is wrong with a dataset, and measures its fingerprint.

Owns: `DatasetCheck`, `check_dataset`, `check_names`, and which problems stop a run.
Does not own: the layout (`datasets/dataset.py`), the measurements (`fingerprint/fingerprint.py`), the cache of earlier
runs (`fingerprint/case_cache.py`).
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from autoseg.datasets.dataset import Dataset, read_dataset
from autoseg.errors import DatasetError, Problem, format_problems
from autoseg.planning.fingerprint.case_cache import CaseCache
from autoseg.planning.fingerprint.extract import list_values_once
from autoseg.planning.fingerprint.fingerprint import Fingerprint, make_fingerprint
from autoseg.planning.memory_and_disk import bytes_to_scan
from autoseg.planning.multi_dataset.label_mapping import LabelMapping
from autoseg.planning.organ_texts.custom_texts import OwnDescriptions, use_own_descriptions
from autoseg.planning.organ_texts.organ_sentences import describe_organs
from autoseg.system.process_pool import default_num_workers

log = logging.getLogger("autoseg")

MAX_PROBLEMS_SHOWN = 12


@dataclass(frozen=True)
class DatasetCheck:
    """The result of checking a dataset.

    Attributes:
        dataset: The dataset as declared.
        fingerprint: The fingerprint of the usable cases.
        layout: The problems of files and declarations.
        contents: The problems inside the scans.
        mapping: The meaning of the labels of several datasets; None for one.
    """

    dataset: Dataset
    fingerprint: Fingerprint
    layout: tuple[Problem, ...]
    contents: tuple[Problem, ...]
    mapping: LabelMapping | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return all problems, those of the layout first."""
        return self.layout + self.contents

    @property
    def num_cases(self) -> int:
        """Return the number of cases that the dataset names, usable or not."""
        return len({case.case_id for case in self.dataset.cases} | {p.case_id for p in self.problems if p.case_id})


def check_dataset(
    dataset_root: Path, *, num_workers: int | None = None, cache: CaseCache | None = None
) -> DatasetCheck:
    """Read a dataset and everything in it; only the cache is written.

    Args:
        dataset_root: The folder of the dataset.
        num_workers: The number of processes; None starts one per core.
        cache: The cases of earlier runs; those whose files did not change are not read again. None reads all.

    Raises:
        DatasetError: Nothing is usable; lists all problems.
        OSError: The cache cannot be written.
    """
    root = Path(dataset_root)
    try:
        cache = cache or CaseCache(None)
        dataset = read_dataset(root, list_values=partial(list_values_once, cache=cache))
        bad = {problem.case_id for problem in dataset.problems if problem.is_error}
        readable = replace(dataset, cases=tuple(case for case in dataset.cases if case.case_id not in bad))
        num_workers = num_workers or default_num_workers(bytes_to_scan(readable.cases))
        fingerprint, contents = make_fingerprint(readable, num_workers=num_workers, cache=cache)
    except DatasetError as error:
        headline = _shorten(error.headline, root=root)
        raise DatasetError(headline, problems=shorten_paths(error.problems, root=root)) from error
    layout = shorten_paths(dataset.problems, root=root)
    return DatasetCheck(dataset, fingerprint, layout, shorten_paths(contents, root=root))


def check_names(check: DatasetCheck, own: OwnDescriptions | None) -> tuple[Problem, ...]:
    """Warn of organs without or with the same descriptions, and of the user's descriptions that fit no organ."""
    fingerprint, unused = use_own_descriptions(check.fingerprint, own)
    return unused + describe_organs(fingerprint)[1]


def shorten_paths(problems: Iterable[Problem], *, root: Path) -> tuple[Problem, ...]:
    """Make paths in messages relative to the dataset's folder."""
    return tuple(replace(problem, message=_shorten(problem.message, root=root)) for problem in problems)


def _shorten(text: str, *, root: Path) -> str:
    for folder in (root.resolve(), root.absolute()):
        text = text.replace(f"{folder}/", "")
    return text


def stop_at_errors(
    problems: Sequence[Problem], *, num_cases: int, on_bad: Literal["fail", "skip"], report: Path
) -> None:
    """Stop the run if there are errors of the dataset as a whole, or of cases with `on_bad="fail"`.

    Args:
        problems: All problems that were found.
        num_cases: The number of cases of the dataset.
        on_bad: Whether bad cases stop the run or are left out.
        report: The file that lists all problems.

    Raises:
        DatasetError: The run cannot continue; lists all problems.
    """
    errors = [problem for problem in problems if problem.is_error]
    of_dataset = [problem for problem in errors if not problem.case_id]
    if not errors or (on_bad == "skip" and not of_dataset):
        return
    num_bad = len({problem.case_id for problem in errors if problem.case_id})
    what = f"{num_bad} of {num_cases} cases" if num_bad else "the dataset"
    remedy = " --on-bad skip continues without the bad cases." if not of_dataset and num_bad < num_cases else ""
    headline = f"{what} cannot be used ({report} has this table).{remedy}"
    raise DatasetError(headline, problems=problems)


def show_problems(problems: Sequence[Problem]) -> None:
    """Log the first problems, errors before warnings."""
    errors_first = sorted(problems, key=lambda problem: not problem.is_error)
    for line in format_problems(errors_first[:MAX_PROBLEMS_SHOWN]):
        log.warning("%s", line)
    if len(problems) > MAX_PROBLEMS_SHOWN:
        log.warning("  and %d more in dataset_report.json", len(problems) - MAX_PROBLEMS_SHOWN)
