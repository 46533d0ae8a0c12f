"""Several datasets as one: their cases under names of their own, their labels with one meaning.

Owns: `check_datasets`, `join_checks`, and the names of datasets and cases in a joint plan.
Does not own: one dataset (`check.py`), what a label means (`label_mapping.py`), what is chosen for the whole
(`planner.py`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.dataset import Dataset
from autoseg.dataset_labels import LabelSet, Organ
from autoseg.dataset_layouts import MOST_ID_BYTES, CaseFiles
from autoseg.errors import DatasetError, Problem, UsageError
from autoseg.planning.case_cache import CaseCache
from autoseg.planning.case_facts import CaseFacts
from autoseg.planning.check import DatasetCheck, check_dataset
from autoseg.planning.content_checks import check_duplicates
from autoseg.planning.fingerprint import DatasetEntry, Fingerprint, LabelEntry, OrganEntry, RegionEntry
from autoseg.planning.label_mapping import LabelMapping, unify_labels
from autoseg.planning.mapping_file import find_mapping

SEPARATOR = "__"  # between the name of a dataset and the id of a case
MOST_NAME_LENGTH = 60


def name_datasets(roots: Sequence[Path]) -> tuple[str, ...]:
    """Give each dataset a short name of its own: that of its folder, numbered where two are alike."""
    names: list[str] = []
    for root in roots:
        stem = root.resolve().name.lstrip(".")[:MOST_NAME_LENGTH] or "dataset"
        name, number = stem, 1
        while name.casefold() in (other.casefold() for other in names):
            number += 1
            name = f"{stem}_{number}"
        names.append(name)
    return tuple(names)


def refuse_the_same(roots: Sequence[Path]) -> None:
    """Refuse a folder that is given twice.

    Raises:
        UsageError: One is.
    """
    if len({root.resolve() for root in roots}) < len(roots):
        raise UsageError("a dataset is given twice. Name each folder once.")


def check_datasets(
    roots: Sequence[Path],
    *,
    num_workers: int | None = None,
    open_cache: Callable[[Path, str | None], CaseCache],
    run_folder: Path | None = None,
) -> DatasetCheck:
    """Read one dataset or several, and everything in them; nothing is written but caches and the mapping of labels.

    Args:
        roots: Their folders, at least one.
        num_workers: Processes; none: one a core.
        open_cache: Opens what is kept of a dataset by its folder, and its name where there are several.
        run_folder: Holds the mapping of labels, which a user may have edited; none: it is found, and not written.

    Raises:
        DatasetError: Nothing of a dataset is usable, or they do not go together; carries all problems.
        UsageError: A folder is given twice, or the mapping of labels is damaged.
        OSError: A cache cannot be written, and is not optional.
    """
    if len(roots) == 1:
        return check_dataset(roots[0], num_workers=num_workers, cache=open_cache(roots[0], None))
    refuse_the_same(roots)
    checks: dict[str, DatasetCheck] = {}
    for name, root in zip(name_datasets(roots), roots, strict=True):
        try:
            checks[name] = check_dataset(root, num_workers=num_workers, cache=open_cache(root, name))
        except DatasetError as error:
            problems = [_rename(problem, name) for problem in error.problems]
            raise DatasetError(f"{name}: {error.headline}", problems=problems) from error
    labels = {name: check.dataset.labels for name, check in checks.items()}
    mapping = unify_labels(labels) if run_folder is None else find_mapping(run_folder, labels)
    return join_checks(checks, mapping)


def join_checks(checks: Mapping[str, DatasetCheck], mapping: LabelMapping) -> DatasetCheck:
    """Join what is known of several datasets.

    Args:
        checks: By the name of the dataset.
        mapping: What their labels mean.

    Returns:
        One check whose cases are called <dataset>__<case>, and whose organs have the values 1, 2, ...

    Raises:
        DatasetError: The datasets have different numbers of channels.
    """
    _refuse_other_channels(checks)
    layout = tuple(_rename(problem, name) for name, check in checks.items() for problem in check.layout)
    contents = tuple(_rename(problem, name) for name, check in checks.items() for problem in check.contents)
    long = tuple(
        Problem(
            case_id,
            f"its name has {len(os.fsencode(case_id))} bytes together with its dataset's; expected at most "
            f"{MOST_ID_BYTES}. Rename its files, or the dataset's folder.",
        )
        for name, check in checks.items()
        for case_id in (_case_id(name, case.case_id) for case in check.dataset.cases)
        if len(os.fsencode(case_id)) > MOST_ID_BYTES
    )
    bad = {problem.case_id for problem in long}
    fingerprint = _join_fingerprints(checks, mapping, bad=bad)
    duplicates = _across(check_duplicates(fingerprint.cases))
    cases = tuple(_rename_case(case, name) for name, check in checks.items() for case in check.dataset.cases)
    first = next(iter(checks.values())).dataset
    dataset = Dataset(
        name=fingerprint.dataset_name,
        root=first.root,
        channel_names=first.channel_names,
        labels=LabelSet(tuple(Organ(organ.name, organ.value, organ.description) for organ in fingerprint.organs)),
        cases=cases,
        problems=layout,
    )
    return DatasetCheck(dataset, fingerprint, layout + long, contents + duplicates, mapping)


def _join_fingerprints(checks: Mapping[str, DatasetCheck], mapping: LabelMapping, *, bad: set[str]) -> Fingerprint:
    return Fingerprint(
        dataset_name=" + ".join(checks)[:200],
        channel_names=next(iter(checks.values())).fingerprint.channel_names,
        organs=tuple(
            _join_organ(organ, value, checks=checks, mapping=mapping) for value, organ in enumerate(mapping.organs, 1)
        ),
        ignore_value=None,
        foreground=next(iter(checks.values())).fingerprint.foreground,
        cases=tuple(
            case
            for name, check in checks.items()
            for case in (_join_case(facts, name, mapping.labels[name]) for facts in check.fingerprint.cases)
            if case.case_id not in bad
        ),
        regions=tuple(RegionEntry(name=region.name, organs=region.organs) for region in mapping.regions),
        datasets=tuple(
            DatasetEntry(
                name=name,
                channel_names=check.fingerprint.channel_names,
                labels=tuple(
                    LabelEntry(value=organ.value, name=organ.name, means=mapping.labels[name][organ.name])
                    for organ in check.fingerprint.organs
                ),
                ignore_value=check.fingerprint.ignore_value,
                foreground=check.fingerprint.foreground,
            )
            for name, check in checks.items()
        ),
    )


def _join_organ(organ: str, value: int, *, checks: Mapping[str, DatasetCheck], mapping: LabelMapping) -> OrganEntry:
    """Describe an organ as the first dataset does that describes it; an edited name keeps what it was called."""
    meant = [
        entry
        for name, check in checks.items()
        for entry in check.fingerprint.organs
        if mapping.labels[name][entry.name] == organ
    ]
    own = next((entry.description for entry in meant if entry.description), None)
    part_of = next((entry.part_of for entry in meant if entry.part_of), ())
    return OrganEntry(name=organ, value=value, description=own, part_of=part_of)


def _join_case(facts: CaseFacts, dataset: str, means: Mapping[str, str | None]) -> CaseFacts:
    organs = (organ.model_copy(update={"name": means[organ.name]}) for organ in facts.organs if means[organ.name])
    return facts.model_copy(
        update={
            "case_id": _case_id(dataset, facts.case_id),
            "patient_id": _case_id(dataset, facts.patient_id),
            "organs": tuple(organs),
            "dataset": dataset,
        }
    )


def _rename_case(case: CaseFiles, dataset: str) -> CaseFiles:
    return replace(
        case,
        case_id=_case_id(dataset, case.case_id),
        patient_id=_case_id(dataset, case.patient_id),
        dataset=dataset,
    )


def _rename(problem: Problem, dataset: str) -> Problem:
    if problem.case_id:
        return replace(problem, case_id=_case_id(dataset, problem.case_id))
    return replace(problem, message=f"{dataset}: {problem.message}")


def _case_id(dataset: str, case_id: str) -> str:
    return f"{dataset}{SEPARATOR}{case_id}"


def _across(duplicates: Sequence[Problem]) -> tuple[Problem, ...]:
    """Keep what is told of scans in two datasets; those within one are told of already."""
    kept = []
    for problem in duplicates:
        own = problem.case_id.partition(SEPARATOR)[0] + SEPARATOR
        if f"as {own}" not in problem.message:
            kept.append(problem)
    return tuple(kept)


def _refuse_other_channels(checks: Mapping[str, DatasetCheck]) -> None:
    counts = {name: check.fingerprint.channel_names for name, check in checks.items()}
    if len({len(names) for names in counts.values()}) > 1:
        told = "; ".join(f"{name}: {', '.join(names)}" for name, names in counts.items())
        raise DatasetError(
            f"the datasets have different numbers of channels ({told[:600]}), so no network takes all of them. Plan "
            "those with the same number together, or leave channels out of the others."
        )
