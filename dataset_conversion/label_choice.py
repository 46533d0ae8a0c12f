"""Which of a source's names become labels, and what they are called then.

Owns: `LabelChoice`; `choose_all`, which takes every name, and `read_choice`, which takes what a user's file says; what
is said of names that are left out and of cases that lack a label.
Does not own: where the names come from.

The file is {"label": "name in the source"} or {"label": ["one name", "another"]}; several names are one organ. Names
are compared without regard to upper and lower case and to white space.
"""

import argparse
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.errors import Problem, UsageError, printable
from autoseg.system.atomic_files import read_json
from dataset_conversion.source import SourceCase

MOST_LABELS = 65535
MOST_NAMES_SHOWN = 8
EXAMPLE = '{"liver": ["Liver", "LIVER_1"], "left kidney": "Kidney_L"}'


@dataclass(frozen=True)
class LabelChoice:
    """Labels and the names that stand for them in the source.

    Attributes:
        sources: The keys (`name_key`) of the names of each label, by its name, in the order of the values 1, 2, ..
    """

    sources: Mapping[str, tuple[str, ...]]

    @property
    def labels(self) -> dict[str, int]:
        """Value by label."""
        return {label: value for value, label in enumerate(self.sources, start=1)}

    def label_of(self, name: str) -> str | None:
        """Return the label of a name of the source; None where it is left out."""
        key = name_key(name)
        return next((label for label, keys in self.sources.items() if key in keys), None)


def name_key(name: str) -> str:
    """Make names that differ in case and white space alone equal."""
    return " ".join(name.split()).casefold()


def choose_all(names: Iterable[str]) -> LabelChoice:
    """Make a label of each name, in alphabetical order, spelt as it is most often."""
    spellings: dict[str, Counter[str]] = {}
    for name in names:
        spelling = " ".join(name.split())
        if spelling:
            spellings.setdefault(name_key(name), Counter())[spelling] += 1
    usual = {key: max(sorted(counts), key=lambda one: counts[one]) for key, counts in spellings.items()}
    return LabelChoice({usual[key]: (key,) for key in sorted(usual)})


def read_choice(path: Path) -> LabelChoice:
    """Read a user's file of labels.

    Raises:
        UsageError: It is not of the form, or one name stands for two labels.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not 0 < len(content) <= MOST_LABELS:
        raise UsageError(f"{printable(str(path))}: expected an object such as {EXAMPLE}.")
    sources: dict[str, tuple[str, ...]] = {}
    for label, names in content.items():
        listed: Sequence[object] = names if isinstance(names, list) else [names]
        if not label.strip() or not listed or not all(isinstance(one, str) and one.strip() for one in listed):
            raise UsageError(f"{printable(str(path))}: {label!r:.60} is {names!r:.80}; expected one name or several.")
        sources[label.strip()] = tuple(dict.fromkeys(name_key(str(one)) for one in listed))
    twice = [key for key, count in Counter(key for keys in sources.values() for key in keys).items() if count > 1]
    if twice:
        raise UsageError(f"{printable(str(path))}: {twice[0]!r:.60} stands for two labels. Keep one.")
    return LabelChoice(sources)


def join(choice: Path | None, names: Iterable[str]) -> LabelChoice:
    """Take the user's file where there is one, else all names."""
    return read_choice(choice) if choice is not None else choose_all(names)


def match_names(choice: LabelChoice, names: Iterable[str]) -> tuple[dict[str, int], list[Problem]]:
    """Return the label value of each name of the source, and say which labels and which names have no counterpart."""
    found = {name: choice.label_of(name) for name in sorted(set(names))}
    values = {name: choice.labels[label] for name, label in found.items() if label is not None}
    problems = [
        Problem("", f"nothing in the source is called as the label {label!r:.60} says. Check its names in the file.")
        for label, value in choice.labels.items()
        if value not in values.values()
    ]
    left_out = [name for name in found if name not in values]
    if left_out:
        shown = ", ".join(map(printable, left_out[:MOST_NAMES_SHOWN]))
        more = f" and {len(left_out) - MOST_NAMES_SHOWN} more" if len(left_out) > MOST_NAMES_SHOWN else ""
        problems.append(Problem("", f"left out, since no label takes them: {shown}{more}.", is_error=False))
    return values, problems


def annotate(case: SourceCase, choice: LabelChoice, *, there: Collection[str | None]) -> SourceCase:
    """Mark a case as one in which only the labels that are there were looked for."""
    if all(label in there for label in choice.sources):
        return case
    return replace(case, annotated=tuple(label for label in choice.sources if label in there))


def report_lacking(choice: LabelChoice, there: Mapping[str, Collection[str | None]]) -> list[Problem]:
    """Return a warning for each label that some cases lack; `there` has the labels of each case."""
    lacking = {label: sum(label not in one for one in there.values()) for label in choice.sources}
    return [
        Problem(
            "",
            f"{count} of {len(there)} cases lack {label!r:.60}: it counts as not there. Use --missing-is-unknown where "
            "it was not looked for.",
            is_error=False,
        )
        for label, count in lacking.items()
        if 0 < count < len(there)
    ]


def add_label_options(parser: argparse.ArgumentParser, *, what: str) -> None:
    """Add the options on labels that the generic conversions share."""
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help=f'JSON of labels to make: {{"label": "{what}" or [several]}}'
    )
    parser.add_argument(
        "--missing-is-unknown", action="store_true", help="an organ that a case lacks was not looked for there"
    )
