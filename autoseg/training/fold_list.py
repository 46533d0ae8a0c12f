"""`splits.json` as training reads it: a user may have edited it.

Owns: `read_folds`, and what is wrong with folds.
Does not own: how folds are made (`planning/splits.py`), which of them is trained (`command.py`).
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.errors import UsageError
from autoseg.system.atomic_files import read_json

MOST_FOLDS = 1000
EXAMPLE = '{"train": ["case", ..], "validation": []}'


@dataclass(frozen=True)
class Fold:
    """The cases that one fold trains on, and those that it leaves out for validation; either may be empty."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def read_folds(path: Path, *, stored: Collection[str]) -> tuple[Fold, ...]:
    """Read the folds of a run.

    Args:
        path: Of `splits.json`.
        stored: The cases that are preprocessed.

    Raises:
        UsageError: It is not of its form, or a case is twice in a fold, on both of its sides, or not in the store.
    """
    content = read_json(path)
    if not isinstance(content, list) or not 1 <= len(content) <= MOST_FOLDS:
        raise _error(path, f"it holds no list of 1 to {MOST_FOLDS} folds, each {EXAMPLE}")
    return tuple(_read_fold(fold, path=path, number=number, stored=stored) for number, fold in enumerate(content))


def _read_fold(content: Any, *, path: Path, number: int, stored: Collection[str]) -> Fold:
    parts = content if isinstance(content, dict) else {}
    train, validation = _names(parts.get("train")), _names(parts.get("validation"))
    if train is None or validation is None:
        raise _error(path, f"fold {number} needs lists of case names under train and validation")
    twice = [name for name, count in Counter([*train, *validation]).items() if count > 1]
    if twice:
        where = "both in train and in validation" if twice[0] in validation and twice[0] in train else "twice"
        raise _error(path, f"fold {number} has the case {twice[0]!r:.80} {where}")
    unknown = [name for name in (*train, *validation) if name not in stored]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise _error(
            path, f"fold {number} names the case {unknown[0]!r:.80}{more}, which is not preprocessed in this run"
        )
    return Fold(train, validation)


def _names(part: object) -> tuple[str, ...] | None:
    if not isinstance(part, list) or not all(isinstance(name, str) for name in part):
        return None
    return tuple(part)


def _error(path: Path, fault: str) -> UsageError:
    return UsageError(f"{path}: {fault}. Mend it, or delete it and run autoseg_plan again, which makes the folds anew.")
