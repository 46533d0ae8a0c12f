"""Which files of a source are there, and which are missing, each by name.

Owns: `require`, `find_cases` and the templates that it takes, `report_missing`.
Does not own: the content of the files.

Files are found by templates below SOURCE, such as "imagesTr/{case}.nii.gz" or "part*/{case}/ct.nii.gz":
`{case}` stands for the name of the case, the same wherever it comes again, and `*` for anything in the name of one file
or folder. A file called .nii serves in the place of .nii.gz.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.errors import DatasetError, Problem, UsageError, printable
from autoseg.io.image import scan_stem
from autoseg.system.atomic_files import read_json
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
        inside = [child.name for child in _folders(source) if all((child / name).exists() for name in names)]
        hint = f" Did you mean the folder {inside[0]!r} inside it?" if inside else ""
        raise nothing_found(source, origin, hint=hint, problems=[Problem(name, "is missing.") for name in missing])


def nothing_found(source: Path, origin: Origin, *, hint: str = "", problems: Sequence[Problem] = ()) -> DatasetError:
    """Make the error of a folder that is not the source."""
    return DatasetError(
        f"{printable(str(source))} does not hold {origin.title}: expected {origin.layout}.{hint} {origin.get_it}",
        problems=problems,
    )


def find_cases(
    source: Path,
    *,
    images: Sequence[str],
    label: str | None,
    case: str,
    held_out: bool = False,
    may_lack_label: bool = False,
) -> tuple[list[SourceCase], list[Problem]]:
    """Find the cases of a layout; a case of which anything is there must be there whole.

    Args:
        source: Folder of the source.
        images: A template a channel; or one of a 4D file.
        label: Template of the label map, which may be a folder; None for scans without labels.
        case: Regular expression of the names of cases.
        held_out: The source keeps these cases for testing.
        may_lack_label: A case without a label map is a scan to predict.

    Returns:
        The cases that are whole, by name, and a problem for each of the others that names what it lacks.
    """
    channels = [find_paths(source, template, case=case) for template in images]
    labels = find_paths(source, label, case=case) if label is not None else {}
    cases, problems = [], []
    for name in sorted(set().union(*channels, labels)):
        wanted = list(zip(images, channels, strict=True))
        if label is not None and not (may_lack_label and name not in labels):
            wanted.append((label, labels))
        fault = _fault([(template.replace(CASE, name), found.get(name, [])) for template, found in wanted], source)
        if fault:
            problems.append(Problem(name, fault))
            continue
        there = tuple(found[name][0] for found in channels)
        cases.append(SourceCase(name, there, labels[name][0] if name in labels else None, held_out=held_out))
    return cases, problems


def find_paths(source: Path, template: str, *, case: str) -> dict[str, list[Path]]:
    """Return all that a template names below a source, by the name of the case."""
    found: dict[str, list[Path]] = {}
    is_scan = template.endswith(PACKED)
    for one in (template, template.removesuffix(PACKED) + PLAIN) if is_scan else (template,):
        form = re.compile(_as_regex(one, case))
        for path in sorted(source.glob(one.replace(CASE, "*"))):
            match = form.fullmatch(path.relative_to(source).as_posix())
            if match and path.exists() and not (is_scan and path.is_dir()):  # a link may lead nowhere
                found.setdefault(match["case"], []).append(path)
    return found


def names_seen(cases: Iterable[SourceCase], problems: Iterable[Problem]) -> list[str]:
    """Return the names of the cases of which anything was found, whole or not."""
    return [case.case_id for case in cases] + [problem.case_id for problem in problems]


def report_missing(expected: Iterable[str], found: Iterable[str], *, origin: Origin) -> list[Problem]:
    """Return one problem that names all cases of the published source that are not there; none where all are."""
    expected, found = list(expected), set(found)
    missing = [name for name in expected if name not in found]
    if not missing:
        return []
    names = in_ranges(missing, among=expected)
    return [Problem("", f"{len(missing)} of {len(expected)} cases are missing: {names}. {origin.get_it}")]


def report_count(what: str, *, expected: int, found: int, origin: Origin) -> list[Problem]:
    """Return a problem where fewer cases are there than were published, of a source whose names follow no rule."""
    if found >= expected:
        return []
    return [Problem("", f"{found} {what} are there; expected {expected}. {origin.get_it}")]


def in_ranges(names: Sequence[str], *, among: Sequence[str]) -> str:
    """Name neighbors by the first and the last: "a_01 to a_03, a_07"."""
    places = {name: index for index, name in enumerate(among)}
    runs: list[list[str]] = []
    for name in names:
        if runs and places[name] == places[runs[-1][-1]] + 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def listed_cases(path: Path, *keys: str) -> list[str]:
    """Return the cases that lists in a source's `dataset.json` name, in both of its forms: paths, and pairs of paths.

    Raises:
        UsageError: The file cannot be read.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UsageError(f"{printable(str(path))} holds no JSON object. Download it again.")
    entries = [entry for key in keys if isinstance(content.get(key), list) for entry in content[key]]
    images = [entry.get("image") if isinstance(entry, dict) else entry for entry in entries]
    return [scan_stem(image) for image in images if isinstance(image, str)]


def with_patient(cases: Iterable[SourceCase], pattern: str) -> list[SourceCase]:
    """Name the patient of each case: the part of its name that a regular expression's first group takes."""
    found = ((case, re.match(pattern, case.case_id)) for case in cases)
    return [replace(case, patient=match[1]) if match else case for case, match in found]


def _fault(wanted: Sequence[tuple[str, Sequence[Path]]], source: Path) -> str | None:
    """Say what a case lacks, or has twice."""
    lacking = [name for name, paths in wanted if not paths]
    if lacking:
        return f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing. Copy or download it again."
    for _, paths in wanted:
        if len(paths) > 1:
            names = " and ".join(path.relative_to(source).as_posix() for path in paths)
            return f"{names} stand for the same. Keep one."
    return None


def _as_regex(template: str, case: str) -> str:
    """Make a regular expression of a template."""
    begin, _, rest = re.escape(template).replace(r"\*", "[^/]*").partition(re.escape(CASE))
    return f"{begin}(?P<case>{case}){rest.replace(re.escape(CASE), '(?P=case)')}"


def _folders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir())
