"""Which labels were annotated in which case, where `dataset.json` says that not all were.

Owns: the form of `annotated_labels`.
Does not own: labels (`dataset_labels.py`), what training makes of it (`label_sets.py`).

{"annotated_labels": {"case_7": ["liver"]}} says that nobody looked for other organs in case_7: where its label map is
0, it may be any of them. A list in place of the object speaks of all cases. Cases that are not named have all labels.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from autoseg.dataset_labels import LabelSet
from autoseg.errors import Problem


def parse_annotated(
    content: Any, *, labels: LabelSet, case_ids: Collection[str], problems: list[Problem]
) -> Mapping[str, tuple[str, ...]]:
    """Read `annotated_labels`; what is wrong is added to `problems`.

    Args:
        content: {case: [label names]}, [label names], or None; untrusted.
        labels: Of the dataset; a region stands for all its parts.
        case_ids: The cases of the dataset, usable or not.
        problems: Grows.

    Returns:
        Names of the annotated organs, for the cases in which not all were.
    """
    if content is None:
        return {}
    if isinstance(content, list):
        content = dict.fromkeys(case_ids, content)
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
    said: set[str] = set()
    for case_id, names in content.items():
        if case_id not in case_ids:
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            message = f'annotated_labels holds {names!r:.80}; expected a list of label names, such as ["liver"].'
            problems.append(Problem(case_id, message))
            continue
        for name in dict.fromkeys(names):
            if name.casefold() not in organs_of and name not in said:
                said.add(name)
                near = difflib.get_close_matches(name[:200], [organ.name for organ in labels.organs], n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                problems.append(Problem(case_id, f"annotated_labels holds {name!r:.80}, which is no label.{hint}"))
        annotated = {organ for name in names for organ in organs_of.get(name.casefold(), ())}
        if len(annotated) < len(labels.organs):
            found[case_id] = tuple(organ.name for organ in labels.organs if organ.name in annotated)
    return found


def _organs_of(labels: LabelSet) -> dict[str, Sequence[str]]:
    """Give the organs that each name of a label stands for; names are compared without regard to case."""
    names = {organ.value: organ.name for organ in labels.organs}
    organs: dict[str, Sequence[str]] = {name.casefold(): (name,) for name in names.values()}
    for region in labels.regions:
        organs[region.name.casefold()] = tuple(names[value] for value in region.values)
    return organs
