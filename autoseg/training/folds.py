"""Reads the folds from `splits.json`, which a user may have edited, and chooses the cases of one.

Does not own: how folds are made (`planning/splits.py`).
"""

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.errors import UsageError
from autoseg.preprocessing.store import CaseStore
from autoseg.system.atomic_files import read_json

MOST_FOLDS = 1000
NUM_CASES_SEEN_IN_TRAINING = 4  # that are watched where no case is left out
EXAMPLE = '{"train": ["case", ..], "validation": []}'


@dataclass(frozen=True)
class Fold:
    """The cases that one fold trains on, and those that it leaves out for validation; either may be empty."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def read_folds(path: Path, *, stored: Collection[str]) -> tuple[Fold, ...]:
    """Read the folds of a run from its `splits.json`; `stored` are the preprocessed cases.

    Raises:
        UsageError: The form is wrong, or a case is twice in a fold, on both of its sides, or not in the store.
    """
    content = read_json(path)
    if not isinstance(content, list) or not 1 <= len(content) <= MOST_FOLDS:
        raise _error(path, f"it holds no list of 1 to {MOST_FOLDS} folds, each {EXAMPLE}")
    return tuple(_read_fold(fold, path=path, number=number, stored=stored) for number, fold in enumerate(content))


def _read_fold(content: Any, *, path: Path, number: int, stored: Collection[str]) -> Fold:
    sides: list[Any] = [content.get(side) if isinstance(content, dict) else None for side in ("train", "validation")]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in sides):
        raise _error(path, f"fold {number} needs lists of case names under train and validation")
    names = list(itertools.chain(*sides))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        where = "both in train and in validation" if all(twice[0] in side for side in sides) else "twice"
        raise _error(path, f"fold {number} has the case {twice[0]!r:.80} {where}")
    unknown = [name for name in names if name not in stored]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise _error(
            path, f"fold {number} names the case {unknown[0]!r:.80}{more}, which is not preprocessed in this run"
        )
    return Fold(*map(tuple, sides))


def _error(path: Path, fault: str) -> UsageError:
    return UsageError(f"{path}: {fault}. Correct it, or delete it and run autoseg_plan again.")


def choose_fold(run_folder: Path, store: CaseStore, *, fold: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Choose the cases of a fold from `splits.json`.

    Returns:
        The training cases, the validation cases, and whether these are trained on too.

    Raises:
        UsageError: There is no such fold or no case in it, or `splits.json` is not as `read_folds` expects.
    """
    folds = read_folds(run_folder / "splits.json", stored=set(store.case_ids()))
    numbered = {str(number): one for number, one in enumerate(folds)}
    if fold == "all":
        training = sorted({case for one in folds for case in (*one.train, *one.validation)})
        validation, is_seen = interleave_datasets(training, store)[:NUM_CASES_SEEN_IN_TRAINING], True
    elif fold in numbered:
        training, validation, is_seen = list(numbered[fold].train), list(numbered[fold].validation), False
    else:
        raise UsageError(f"--fold {fold}: this run has the folds {', '.join(numbered)}, and all. Name one of them.")
    if not training:
        raise UsageError(
            f"{run_folder / 'splits.json'}: fold {fold} has no case to train on. Give it cases, or delete the file and "
            "run autoseg_plan again."
        )
    return tuple(training), tuple(validation), is_seen


def interleave_datasets(case_ids: Sequence[str], store: CaseStore) -> list[str]:
    """Order cases so that their datasets alternate; those of one dataset keep their order."""
    datasets: dict[str | None, list[str]] = {}
    for case_id in case_ids:
        datasets.setdefault(store.source(case_id).dataset, []).append(case_id)
    rounds = itertools.zip_longest(*datasets.values())
    return [case_id for one in rounds for case_id in one if case_id is not None]
