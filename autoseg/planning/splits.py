"""Makes the folds for cross-validation: seeded, each patient in one fold, with balanced organs.

Owns: `make_splits`.
Does not own: how many folds (`rules/training.py`), writing `splits.json` (`pipelines/plan.py`).
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

log = logging.getLogger("autoseg")


class HasPatient(Protocol):
    """A case, as far as splits care."""

    @property
    def case_id(self) -> str:
        """Return the name of the case."""

    @property
    def patient_id(self) -> str:
        """Return the patient, whose cases stay together."""


def make_splits(
    cases: Sequence[HasPatient], *, organs_of_case: Mapping[str, Collection[str]], num_folds: int, seed: int
) -> list[dict[str, list[str]]]:
    """Distribute the cases over folds.

    The patients with the rarest organ come first; each goes to the fold with the fewest cases of that organ, and
    among equal folds to the one with the fewest cases.

    Args:
        cases: The cases, at least one.
        organs_of_case: The organs in each case; a missing case has none.
        num_folds: The number of folds, at most that of patients; with 1 all cases are for training.
        seed: The seed, which decides among equal choices.

    Returns:
        One dict per fold with the sorted case ids of "train" and "validation".
    """
    patients: dict[str, list[str]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: case.case_id):
        patients[case.patient_id].append(case.case_id)
    everyone = sorted(case.case_id for case in cases)
    if num_folds < 2 or len(patients) < 2:
        log.warning("%d case(s) of one fold: training goes without validation.", len(everyone))
        return [{"train": everyone, "validation": []}]
    folds = _assign_to_folds(
        patients, organs_of_case=organs_of_case, num_folds=min(num_folds, len(patients)), seed=seed
    )
    return [
        {"train": sorted(set(everyone) - fold), "validation": sorted(fold)}
        for fold in (set(cases_) for cases_ in folds)
    ]


def _assign_to_folds(
    patients: Mapping[str, Sequence[str]], *, organs_of_case: Mapping[str, Collection[str]], num_folds: int, seed: int
) -> list[list[str]]:
    shuffled = sorted(patients)
    np.random.default_rng(seed).shuffle(shuffled)
    waiting = sorted(shuffled, key=lambda patient: -len(patients[patient]))
    organs = {
        patient: Counter(organ for case_id in case_ids for organ in set(organs_of_case.get(case_id, ())))
        for patient, case_ids in patients.items()
    }
    totals: Counter[str] = sum(organs.values(), Counter())
    folds: list[list[str]] = [[] for _ in range(num_folds)]
    counts: list[Counter[str]] = [Counter() for _ in range(num_folds)]
    rarest_first: list[str | None] = [*sorted(totals, key=lambda organ: (totals[organ], organ)), None]
    for organ in rarest_first:
        for patient in [name for name in waiting if organ is None or organs[name][organ]]:
            best = min(range(num_folds), key=lambda fold: (counts[fold][organ] if organ else 0, len(folds[fold]), fold))
            folds[best] += patients[patient]
            counts[best] += organs[patient]
            waiting.remove(patient)
    return folds
