"""Names several datasets in one plan, and their cases: <dataset>__<case>.

Owns: `name_datasets`, `name_case`, `name_problem`.
Does not own: joining the datasets (`merge_datasets.py`).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.errors import Problem, UsageError

SEPARATOR = "__"  # between the name of a dataset, which holds none, and the id of a case
MOST_BYTES_OF_NAME = 60


def name_datasets(roots: Sequence[Path]) -> tuple[str, ...]:
    """Return a short, unique name per dataset: that of its folder, numbered where two are the same.

    A name contains no separator and does not end with a part of one, so that the id of a case identifies its dataset.
    """
    names: list[str] = []
    for root in roots:
        stem = name = _short_name(root)
        number = 1
        while name.casefold() in (other.casefold() for other in names):
            number += 1
            name = f"{stem}_{number}"
        names.append(name)
    return tuple(names)


def _short_name(root: Path) -> str:
    """Return the name of a folder without characters that ids, terminals or JSON do not allow."""
    text = os.fsencode(root.resolve().name).decode(errors="replace")
    text = "".join(letter if letter.isprintable() else "_" for letter in text).strip().lstrip(".")
    cut = text.encode()[:MOST_BYTES_OF_NAME].decode(errors="ignore")
    return re.sub("_{2,}", "_", cut).rstrip("_ ") or "dataset"


def refuse_the_same(roots: Sequence[Path]) -> None:
    """Refuse a folder that is given twice.

    Raises:
        UsageError: A folder is given twice.
    """
    if len({root.resolve() for root in roots}) < len(roots):
        raise UsageError("a dataset is given twice. Name each folder once.")


def name_problem(problem: Problem, dataset: str) -> Problem:
    """Return a problem with the name of its dataset."""
    if problem.case_id:
        return replace(problem, case_id=name_case(dataset, problem.case_id))
    return replace(problem, message=f"{dataset}: {problem.message}")


def name_case(dataset: str, case_id: str) -> str:
    """Return the id of a case in the joint plan."""
    return f"{dataset}{SEPARATOR}{case_id}"
