"""Finds the scans to predict: a file, a folder, several of them, or a table of their channels.

Owns: `find_cases`.
Does not own: the check that a case is complete (`layouts.py`), the content of files (`io/image.py`, `io/dicom.py`).
"""

import csv
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from autoseg.datasets.layouts import CHANNEL_SUFFIX, Candidate, CaseFiles, finish_cases, group_images, list_scans
from autoseg.errors import DatasetError, Problem
from autoseg.io.byte_stream import display_name, file_fault
from autoseg.io.image import SCAN_ENDINGS, is_scan_name, scan_stem

TABLE_ENDING = ".csv"
CASE_COLUMN = "case"
Found = tuple[tuple[CaseFiles, ...], tuple[Problem, ...]]


def find_cases(inputs: Path | Sequence[Path], *, channel_names: Sequence[str]) -> Found:
    """Find the scans to predict.

    Args:
        inputs: One or several of: a scan; a folder of scans (not searched recursively), whose names end in a channel
            number such as "_0000" unless there is one channel or a 4D file with all channels; a folder that is a
            DICOM series or contains a folder per series; a `.csv` table with a column `case` and a column per channel
            (its name, or its number from 0) of paths relative to the table.
        channel_names: The channels that the model expects.

    Raises:
        DatasetError: A path does not exist, two cases have one name, or there is no scan at all.
    """
    paths = [Path(inputs)] if isinstance(inputs, str | Path) else [Path(path) for path in inputs]
    cases: list[CaseFiles] = []
    problems: list[Problem] = []
    for path in paths:
        own, more = _find_in(path, channel_names=channel_names)
        cases += own
        problems += more
    cases = list(dict.fromkeys(cases))  # each file of `scans/*.nii.gz` stands for its whole case
    spellings = [unicodedata.normalize("NFC", case.case_id).casefold() for case in cases]
    counts = Counter(spellings)
    twice = [case.case_id for case, spelling in zip(cases, spellings, strict=True) if counts[spelling] > 1]
    if twice:
        raise DatasetError(
            f"two of the inputs hold a case {twice[0]!r:.80}; their label maps would have one name. Predict them into "
            "different folders."
        )
    return tuple(cases), tuple(dict.fromkeys(problems))


def _find_in(path: Path, *, channel_names: Sequence[str]) -> Found:
    problems: list[Problem] = []
    if path.name.lower().endswith(TABLE_ENDING):
        candidates = _read_table(path, channel_names=channel_names)
    else:
        if path.is_dir():
            scans = list_scans(path, problems)
            series = () if scans or len(channel_names) > 1 else _find_series(path)
            if series:
                return series, ()
            if not scans:
                raise DatasetError(
                    f"{display_name(path)} holds no {', '.join(SCAN_ENDINGS)} file and no DICOM series. Convert the "
                    "scans, or name another folder.",
                    problems=problems,
                )
        else:
            scans = _with_other_channels(path, num_channels=len(channel_names))
        numbers = {match[2] for match in map(CHANNEL_SUFFIX.fullmatch, map(scan_stem, scans)) if match}
        has_suffixes = len(channel_names) > 1 or numbers == {"0000"}  # else numbers count scans, not channels
        candidates = group_images(scans, has_suffixes=has_suffixes)
    cases = finish_cases(candidates, channel_names=channel_names, needs_labels=False, patients={}, problems=problems)
    return cases, tuple(problems)


def _find_series(folder: Path) -> tuple[CaseFiles, ...]:
    """Return a case per DICOM series in a folder, or for the folder itself, named after its folder."""
    from autoseg.io.dicom import find_series

    names = {path: path.name if path != folder else path.resolve().name for path in find_series(folder)}
    return tuple(CaseFiles(name, (path,), None, name) for path, name in names.items())


def _with_other_channels(path: Path, *, num_channels: int) -> list[Path]:
    """Return the file and the other channels of its case in the same folder."""
    fault = file_fault(path)
    if fault:
        raise DatasetError(f"there is nothing to predict: {fault} Expected a scan or a folder of scans.")
    if not is_scan_name(path.name):
        raise DatasetError(
            f"{display_name(path)} does not have the name of a scan; expected {' or '.join(SCAN_ENDINGS)}."
        )
    match = CHANNEL_SUFFIX.fullmatch(scan_stem(path))
    if num_channels == 1 or not match:
        return [path]
    beside = [(other, CHANNEL_SUFFIX.fullmatch(scan_stem(other))) for other in list_scans(path.parent, [])]
    return [other for other, found in beside if found and found[1] == match[1]]


def _read_table(path: Path, *, channel_names: Sequence[str]) -> dict[str, Candidate]:
    """Read a table of cases; every fault of its form is an error before any scan is opened."""
    fault = file_fault(path)
    if fault:
        raise DatasetError(f"there is nothing to predict: {fault} Expected a table of cases.")
    name = display_name(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DatasetError(f"{name} cannot be read as a table: {error}. Expected comma-separated text.") from error
    columns = [_find_column(rows, index, channel, name=name) for index, channel in enumerate(channel_names)]
    candidates: dict[str, Candidate] = {}
    for number, row in enumerate(rows, start=2):
        case_id = (row.get(CASE_COLUMN) or "").strip()
        files = [(row[column] or "").strip() for column in columns]
        if not all(files) or case_id in ("", "..") or "\0" in case_id or Path(case_id).name != case_id:
            raise DatasetError(f"{name}, row {number}: expected a name of a case and a path for each channel.")
        if case_id in candidates:
            raise DatasetError(f"{name}, row {number}: the case {case_id!r:.80} occurs twice. Keep one row.")
        candidates[case_id] = Candidate({index: [path.parent / file] for index, file in enumerate(files)})
    return candidates


def _find_column(rows: Sequence[dict[str, str]], index: int, channel: str, *, name: str) -> str:
    header = list(rows[0]) if rows else []
    for column in (channel, str(index), f"{index:04d}"):
        if column in header and CASE_COLUMN in header:
            return column
    raise DatasetError(
        f"{name}: its columns are {header!r:.200}; expected {CASE_COLUMN!r} and one for each channel, here {channel!r} "
        f"or {index}, and at least one row."
    )
