"""Checks several datasets for problems that they only have together.

Owns: the checks of channels, of scans in two datasets, of names that are too long together.
Does not own: one dataset (`planning/checks.py`), joining datasets (`merge_datasets.py`).
"""

import os
from collections.abc import Mapping

from autoseg.datasets.layouts import MOST_ID_BYTES
from autoseg.errors import DatasetError, Problem
from autoseg.planning.checks import DatasetCheck
from autoseg.planning.fingerprint.content_checks import check_duplicates
from autoseg.planning.fingerprint.fingerprint import Fingerprint
from autoseg.planning.multi_dataset.dataset_names import name_case
from autoseg.planning.multi_dataset.label_mapping import LabelMapping
from autoseg.planning.organ_texts.organ_sentences import modality_name


def refuse_other_channels(checks: Mapping[str, DatasetCheck]) -> None:
    """Refuse datasets with different numbers of channels, or the same channels in another order.

    Raises:
        DatasetError: The datasets do not fit together.
    """
    counts = {name: check.fingerprint.channel_names for name, check in checks.items()}
    if len({len(names) for names in counts.values()}) > 1:
        listed = "; ".join(f"{name}: {', '.join(names)}" for name, names in counts.items())
        raise DatasetError(
            f"the datasets have different numbers of channels ({listed[:600]}), so no network takes all of them. Plan "
            "those with the same number together, or leave channels out of the others."
        )
    first_of: dict[tuple[str, ...], str] = {}
    for name, names in counts.items():
        folded = tuple(channel.casefold() for channel in names)
        first = first_of.setdefault(tuple(sorted(folded)), name)
        if folded != tuple(channel.casefold() for channel in counts[first]):
            raise DatasetError(
                f"{first} has the channels {', '.join(counts[first])}, and {name} the same in another order: "
                f"{', '.join(names)}. Renumber the channels of one of them."
            )


def warn_of_other_channels(checks: Mapping[str, DatasetCheck]) -> tuple[Problem, ...]:
    """Warn of channels of one modality with other names, since they are treated as the same."""
    first_of: dict[str, str] = {}
    problems = []
    for name, check in checks.items():
        names = check.fingerprint.channel_names
        first = first_of.setdefault(modality_name(names), name)
        known = checks[first].fingerprint.channel_names
        pairs = [f"{own} for {other}" for own, other in zip(names, known, strict=True) if own != other]
        if len(names) > 1 and pairs:
            text = f"{name}: its channels are taken for those of {first}, {', '.join(pairs)}."
            problems.append(Problem("", text, is_error=False))
    return tuple(problems)


def warn_of_silent_datasets(mapping: LabelMapping) -> tuple[Problem, ...]:
    """Warn of datasets whose labels all mean background."""
    return tuple(
        Problem("", f"{name}: no label of it means an organ, so nothing is learnt from its cases.", is_error=False)
        for name, labels in mapping.labels.items()
        if not any(labels.values())
    )


def check_long_ids(checks: Mapping[str, DatasetCheck]) -> tuple[Problem, ...]:
    """Refuse cases whose names are too long together with those of their datasets."""
    return tuple(
        Problem(
            case_id,
            f"its name has {len(os.fsencode(case_id))} bytes together with its dataset's; expected at most "
            f"{MOST_ID_BYTES}. Rename its files, or the dataset's folder.",
        )
        for name, check in checks.items()
        for case_id in (name_case(name, case.case_id) for case in check.dataset.cases)
        if len(os.fsencode(case_id)) > MOST_ID_BYTES
    )


def check_duplicates_across(fingerprint: Fingerprint) -> tuple[Problem, ...]:
    """Warn of scans that are in two datasets; duplicates within one dataset are reported already."""
    first_of: dict[tuple[str | None, str], str] = {}
    for case in fingerprint.cases:
        first_of.setdefault((case.dataset, case.voxel_digest), case.case_id)
    firsts = set(first_of.values())
    return tuple(problem for problem in check_duplicates(fingerprint.cases) if problem.case_id in firsts)
