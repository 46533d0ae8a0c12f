"""Reads which labels were annotated in which case, where `dataset.json` says that some were not.

Owns: the form of `annotated_labels`.
Does not own: labels (`labels.py`), how training uses partial annotation (`partial_labels.py`).

{"annotated_labels": {"case_7": ["liver"]}} means that nobody annotated other organs in case_7: where its label map is
0, there may be any of them. A list in place of the object applies to all cases. Cases that are not named have all
labels. A region stands for its parts.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from autoseg.datasets.labels import LabelSet
from autoseg.errors import Problem

MAX_NAMES_REPORTED = 20


def parse_annotated(
    content: Any, *, labels: LabelSet, case_ids: Collection[str], problems: list[Problem]
) -> Mapping[str, tuple[str, ...]]:
    """Read `annotated_labels`; faults are added to `problems`.

    Args:
        content: {case: [label names]}, [label names], or None; untrusted.
        labels: The labels of the dataset; a region stands for all its parts.
        case_ids: The cases of the dataset, usable or not.
        problems: The list that problems are added to.

    Returns:
        The names of the annotated organs, for the cases in which some were not.
    """
    if content is None or content == {}:
        return {}
    if isinstance(content, list) and content:
        content = dict.fromkeys(sorted(case_ids), content)
    if not isinstance(content, Mapping):
        message = f'annotated_labels is {content!r:.80}; expected {{"case": ["liver"]}}, or a list for all cases.'
        problems.append(Problem("", message))
        return {}
    unknown = sorted(str(case_id) for case_id in set(content) - set(case_ids))
    if unknown:
        message = f"annotated_labels names {len(unknown)} cases that are not there, as {unknown[0]!r:.80}."
        problems.append(Problem("", message, is_error=False))
    organs_of = _organs_of(labels)
    found: dict[str, tuple[str, ...]] = {}
    wrong: dict[str, list[str]] = {}
    for case_id, names in content.items():
        if case_id not in case_ids:
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            message = f'annotated_labels holds {names!r:.80}; expected a list of label names, such as ["liver"].'
            problems.append(Problem(case_id, message))
            continue
        keys = {name.strip().casefold(): name for name in names}
        for key in keys.keys() - organs_of.keys():
            wrong.setdefault(keys[key], []).append(case_id)
        annotated = {organ for key in keys for organ in organs_of.get(key, ())}
        if len(annotated) < len(labels.organs):
            found[case_id] = tuple(organ.name for organ in labels.organs if organ.name in annotated)
        if not keys:
            message = "annotated_labels says that no label was annotated, so nothing is learnt from it."
            problems.append(Problem(case_id, message, is_error=False))
    known = [organ.name for organ in labels.organs] + [region.name for region in labels.regions]
    _report_wrong_names(wrong, known, problems)
    return found


def _report_wrong_names(wrong: Mapping[str, Sequence[str]], known: Sequence[str], problems: list[Problem]) -> None:
    """Report names that are not labels as problems of the dataset, since no case can be blamed for them."""
    for name in sorted(wrong)[:MAX_NAMES_REPORTED]:
        near = difflib.get_close_matches(name[:200], known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "Name a label or a region of labels."
        cases = f"{wrong[name][0]!r:.80}" + (f" and {len(wrong[name]) - 1} more cases" if len(wrong[name]) > 1 else "")
        problems.append(Problem("", f"annotated_labels of {cases} holds {name!r:.80}, which is not a label. {hint}"))
    num_more = len(wrong) - MAX_NAMES_REPORTED
    if num_more > 0:
        problems.append(Problem("", f"annotated_labels holds {num_more} more names that are not labels. Correct them."))


def _organs_of(labels: LabelSet) -> dict[str, Sequence[str]]:
    """Return the organs that each name of a label stands for; names are compared without regard to case."""
    names = {organ.value: organ.name for organ in labels.organs}
    organs: dict[str, Sequence[str]] = {name.casefold(): (name,) for name in names.values()}
    for region in labels.regions:
        organs[region.name.casefold()] = tuple(names[value] for value in region.values)
    return organs
