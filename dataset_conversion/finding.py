"""Which files of a source are there, and which are missing, each by name.

Owns: `require`, `find_cases`, `report_missing`.
Does not own: the content of the files.

Where files lie is told by templates below SOURCE, such as "imagesTr/{case}.nii.gz": `{case}` stands for the name of the
case, any number of times. A file called .nii serves in the place of .nii.gz.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.errors import DatasetError, Problem, printable
from dataset_conversion.source import Origin, SourceCase

CASE = "{case}"
PACKED, PLAIN = ".nii.gz", ".nii"


def require(source: Path, *names: str, origin: Origin) -> None:
    """Check that a source has certain files and folders.

    Args:
        source: Its folder.
        names: Paths below it.
        origin: Tells what was expected.

    Raises:
        DatasetError: It names each that is missing.
    """
    missing = [name for name in names if not (source / name).exists()]
    if missing:
        inside = [
            child.name
            for child in sorted(source.iterdir())
            if child.is_dir() and all((child / name).exists() for name in names)
        ]
        hint = f" Did you mean the folder {inside[0]!r} inside it?" if inside else ""
        raise nothing_found(source, origin, hint=hint, problems=[Problem(name, "is missing.") for name in missing])


def nothing_found(source: Path, origin: Origin, *, hint: str = "", problems: Sequence[Problem] = ()) -> DatasetError:
    """Make the error of a folder that is not the source."""
    return DatasetError(
        f"{printable(str(source))} does not hold {origin.title}: expected {origin.layout}.{hint} {origin.get_it}",
        problems=problems,
    )


def find_cases(
    source: Path, *, images: Sequence[str], label: str | None, case: str
) -> tuple[list[SourceCase], list[Problem]]:
    """Find the cases of a layout; a case of which anything is there must be there whole.

    Args:
        source: Folder of the source.
        images: A template a channel; or one of a 4D file.
        label: Template of the label map, which may be a folder; None for scans without labels.
        case: Regular expression of the names of cases.

    Returns:
        The cases that are whole, by name, and a problem for each of the others that names what it lacks.
    """
    templates = [*images, *([label] if label is not None else [])]
    names = sorted({name for template in templates for name in find_names(source, template, case=case)})
    cases, problems = [], []
    for name in names:
        paths = [place(source, template, case=name) for template in templates]
        lacking = [
            template.replace(CASE, name) for template, path in zip(templates, paths, strict=True) if path is None
        ]
        there = tuple(path for path in paths if path is not None)
        if lacking:
            problems.append(Problem(name, f"{' and '.join(lacking)} is missing. Copy or download it again."))
        elif label is None:
            cases.append(SourceCase(name, there))
        else:
            cases.append(SourceCase(name, there[:-1], there[-1]))
    return cases, problems


def find_names(source: Path, template: str, *, case: str) -> set[str]:
    """Give the names of the cases for which a template names something that is there."""
    forms, globs = [_as_regex(template, case)], [template]
    if template.endswith(PACKED):
        forms.append(_as_regex(template.removesuffix(PACKED) + PLAIN, case))
        globs.append(template.removesuffix(PACKED) + PLAIN)
    found = itertools.chain.from_iterable(source.glob(one.replace(CASE, "*")) for one in globs)
    below = [path.relative_to(source).as_posix() for path in found]
    matches = (re.fullmatch(form, name) for form, name in itertools.product(forms, below))
    return {match["case"] for match in matches if match}


def place(source: Path, template: str, *, case: str) -> Path | None:
    """Give the path that a template names for a case, or None where nothing is there."""
    path = source / template.replace(CASE, case)
    others = [path.with_name(path.name.removesuffix(PACKED) + PLAIN)] if template.endswith(PACKED) else []
    return next((one for one in (path, *others) if one.exists()), None)


def report_missing(expected: Iterable[str], found: Iterable[str], *, origin: Origin) -> list[Problem]:
    """Give one problem that names all cases of the published source that are not there; none where all are."""
    expected, found = list(expected), set(found)
    missing = [name for name in expected if name not in found]
    if not missing:
        return []
    message = (
        f"{len(missing)} of {len(expected)} cases are missing: {in_ranges(missing, among=expected)}. {origin.get_it}"
    )
    return [Problem("", message)]


def in_ranges(names: Sequence[str], *, among: Sequence[str]) -> str:
    """Name neighbours by the first and the last: "a_01 to a_03, a_07"."""
    places = {name: index for index, name in enumerate(among)}
    runs: list[list[str]] = []
    for name in names:
        if runs and places[name] == places[runs[-1][-1]] + 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def with_patient(cases: Iterable[SourceCase], pattern: str) -> list[SourceCase]:
    """Name the patient of each case: the part of its name that a regular expression's first group takes."""
    found = ((case, re.match(pattern, case.case_id)) for case in cases)
    return [replace(case, patient=match[1]) if match else case for case, match in found]


def _as_regex(template: str, case: str) -> str:
    """Make a regular expression of a template, in which the name of the case is the same everywhere."""
    begin, _, rest = re.escape(template).partition(re.escape(CASE))
    return f"{begin}(?P<case>{case}){rest.replace(re.escape(CASE), '(?P=case)')}"
