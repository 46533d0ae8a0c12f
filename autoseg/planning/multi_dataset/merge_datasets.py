"""Joins several datasets to one, with unique names of cases and common labels.

Owns: `check_datasets`, `join_checks`.
Does not own: one dataset (`planning/checks.py`), names of datasets and cases (`dataset_names.py`), joint problems
(`joint_checks.py`), the meaning of labels (`label_mapping.py`), planning (`planner.py`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.datasets.dataset import Dataset
from autoseg.datasets.labels import LabelSet, Organ
from autoseg.datasets.layouts import CaseFiles
from autoseg.errors import DatasetError, Problem
from autoseg.planning.checks import DatasetCheck, check_dataset
from autoseg.planning.fingerprint.case_cache import CaseCache
from autoseg.planning.fingerprint.case_statistics import CaseStatistics, OrganStatistics
from autoseg.planning.fingerprint.fingerprint import DatasetEntry, Fingerprint, LabelEntry, OrganEntry, RegionEntry
from autoseg.planning.multi_dataset.dataset_names import name_case, name_datasets, name_problem, refuse_the_same
from autoseg.planning.multi_dataset.joint_checks import (
    check_duplicates_across,
    check_long_ids,
    refuse_other_channels,
    warn_of_other_channels,
    warn_of_silent_datasets,
)
from autoseg.planning.multi_dataset.label_mapping import LabelMapping, unify_labels
from autoseg.planning.multi_dataset.mapping_file import find_mapping, read_mapping


def check_datasets(
    roots: Sequence[Path],
    *,
    num_workers: int | None = None,
    open_cache: Callable[[Path, str | None], CaseCache],
    run_folder: Path | None = None,
) -> DatasetCheck:
    """Read one dataset or several, and everything in them; only caches and the mapping of labels are written.

    Args:
        roots: The folders of the datasets, at least one.
        num_workers: The number of processes; None starts one per core.
        open_cache: A function that opens the cache of a dataset, given its folder and its name (None for a single one).
        run_folder: The folder with the mapping of labels, which a user may have edited; None neither reads nor writes.

    Raises:
        DatasetError: A dataset has nothing usable, or they do not fit together; lists all problems.
        UsageError: A folder is given twice, or the mapping of labels is damaged.
        OSError: A cache cannot be written.
    """
    if len(roots) == 1:
        return check_dataset(roots[0], num_workers=num_workers, cache=open_cache(roots[0], None))
    refuse_the_same(roots)
    if run_folder is not None:
        read_mapping(run_folder)  # a damaged one shows itself before hours of reading
    checks: dict[str, DatasetCheck] = {}
    failed: dict[str, DatasetError] = {}
    for name, root in zip(name_datasets(roots), roots, strict=True):
        try:
            checks[name] = check_dataset(root, num_workers=num_workers, cache=open_cache(root, name))
        except DatasetError as error:
            failed[name] = error
    if failed:
        raise _join_errors(failed, checks)
    refuse_other_channels(checks)
    labels = {name: check.dataset.labels for name, check in checks.items()}
    mapping = unify_labels(labels) if run_folder is None else find_mapping(run_folder, labels)
    return join_checks(checks, mapping)


def join_checks(checks: Mapping[str, DatasetCheck], mapping: LabelMapping) -> DatasetCheck:
    """Join the checks of several datasets.

    Args:
        checks: The checks by the name of the dataset.
        mapping: The meaning of their labels.

    Returns:
        One check whose cases are called <dataset>__<case>, and whose organs have the values 1, 2, ...

    Raises:
        DatasetError: A dataset has no case whose name is short enough.
    """
    layout = tuple(name_problem(problem, name) for name, check in checks.items() for problem in check.layout)
    contents = tuple(name_problem(problem, name) for name, check in checks.items() for problem in check.contents)
    long = check_long_ids(checks)
    bad = {problem.case_id for problem in long}
    for name, check in checks.items():
        if bad.issuperset(name_case(name, facts.case_id) for facts in check.fingerprint.cases):
            raise DatasetError(
                f"no case of {name} can be used. Correct the problems listed below.", problems=layout + long
            )
    fingerprint = _join_fingerprints(checks, mapping, bad=bad)
    duplicates = check_duplicates_across(fingerprint)
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
    warnings = warn_of_other_channels(checks) + warn_of_silent_datasets(mapping)
    return DatasetCheck(dataset, fingerprint, layout + warnings + long, contents + duplicates, mapping)


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
                    LabelEntry(value=organ.value, name=organ.name, maps_to=mapping.labels[name][organ.name])
                    for organ in check.fingerprint.organs
                ),
                ignore_value=check.fingerprint.ignore_value,
                foreground=check.fingerprint.foreground,
            )
            for name, check in checks.items()
        ),
    )


def _join_organ(organ: str, value: int, *, checks: Mapping[str, DatasetCheck], mapping: LabelMapping) -> OrganEntry:
    """Return an organ with the description of the first dataset that has one."""
    meant = [
        entry
        for name, check in checks.items()
        for entry in check.fingerprint.organs
        if mapping.labels[name][entry.name] == organ
    ]
    own = next((entry.description for entry in meant if entry.description), None)
    part_of = next((entry.part_of for entry in meant if entry.part_of), ())
    return OrganEntry(name=organ, value=value, description=own, part_of=part_of)


def _join_case(facts: CaseStatistics, dataset: str, means: Mapping[str, str | None]) -> CaseStatistics:
    organs: dict[str, OrganStatistics] = {}
    for organ in facts.organs:
        name = means[organ.name]
        if name is not None:
            found = organ.model_copy(update={"name": name})
            organs[name] = _unite(organs[name], found) if name in organs else found
    return facts.model_copy(
        update={
            "case_id": name_case(dataset, facts.case_id),
            "patient_id": name_case(dataset, facts.patient_id),
            "organs": tuple(organs.values()),
            "dataset": dataset,
        }
    )


def _unite(one: OrganStatistics, other: OrganStatistics) -> OrganStatistics:
    """Join the statistics of two labels that mean one organ; touching components are counted twice."""
    first, second, third = (math.hypot(*widths) for widths in zip(one.width_zyx_mm, other.width_zyx_mm, strict=True))
    larger = one if one.num_voxels >= other.num_voxels else other
    return larger.model_copy(
        update={
            "num_voxels": one.num_voxels + other.num_voxels,
            "volume_ml": one.volume_ml + other.volume_ml,
            "num_components": one.num_components + other.num_components,
            "width_zyx_mm": (first, second, third),
        }
    )


def _rename_case(case: CaseFiles, dataset: str) -> CaseFiles:
    return replace(
        case,
        case_id=name_case(dataset, case.case_id),
        patient_id=name_case(dataset, case.patient_id),
        dataset=dataset,
    )


def _join_errors(failed: Mapping[str, DatasetError], checks: Mapping[str, DatasetCheck]) -> DatasetError:
    """Return one error with all problems of all datasets, if some cannot be used at all."""
    problems = [name_problem(problem, name) for name, error in failed.items() for problem in error.problems]
    problems += [name_problem(problem, name) for name, check in checks.items() for problem in check.problems]
    (name, first), *others = failed.items()
    more = [Problem("", f"{other}: {error.headline}") for other, error in others]
    return DatasetError(f"{name}: {first.headline}", problems=[*more, *problems])
