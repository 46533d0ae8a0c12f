"""Records which cases of a dataset are converted, so that the same command continues where it stopped.

Owns: `conversion.jsonl` in the dataset's folder: its first line names the conversion, each further one a finished case.
Does not own: the files of a case, each of which is complete or absent.

A case counts as finished if its sources (by path, size and time of change) and the settings are the same, and all
files that it was converted to are there.
"""

import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg.errors import Problem, UsageError, printable
from autoseg.system.json_lines import append_json_line, read_json_lines
from dataset_conversion.case_files import WrittenCase, target_names
from dataset_conversion.source import SourceCase, SourceDataset

LOG_NAME = "conversion.jsonl"
FORM = 1  # another number where the same source becomes other files


class ConversionLog:
    """The finished cases of one dataset."""

    def __init__(self, out: Path, *, name: str) -> None:
        """Read which cases earlier runs finished, or begin a new log.

        Raises:
            UsageError: The folder contains something else than this dataset.
        """
        self._path = out / LOG_NAME
        self._head = {"conversion": name, "form": FORM}
        head, *entries = [*read_json_lines(self._path)] or [None]
        is_empty = not any(path for path in out.iterdir() if not path.name.startswith("."))
        if head != self._head and not (head is None and is_empty):
            raise UsageError(
                f"{printable(str(out))} holds something else than a conversion of {name}. Choose another folder, or "
                "delete it."
            )
        if head is None:
            append_json_line(self._path, self._head)
        self._entries: dict[str, Mapping[str, Any]] = {
            entry["case"]: entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("case"), str)
        }

    def find(self, case: SourceCase, *, dataset: SourceDataset) -> WrittenCase | None:
        """Return the result of an earlier run for a case, or None where it must be converted."""
        entry = self._entries.get(case.case_id, {})
        names = target_names(case, num_channels=len(dataset.channel_names))
        is_there = all((self._path.parent / name).is_file() for name in names)
        if not is_there or entry.get("key") != case_key(case, dataset):
            return None
        values, num_links, notes = entry.get("values"), entry.get("num_links"), entry.get("notes")
        if not isinstance(values, list) or not isinstance(notes, list) or not isinstance(num_links, int):
            return None
        if not all(type(value) is int for value in values) or not all(isinstance(note, str) for note in notes):
            return None
        return WrittenCase(tuple(values), num_links, tuple(notes))

    def report_gone(self, cases: Sequence[SourceCase]) -> list[Problem]:
        """Return a problem for each case of an earlier run that the source no longer has, while its files are there."""
        gone = self._entries.keys() - {case.case_id for case in cases}
        return [
            Problem(
                name, "is there from an earlier run, but not whole in the source any more. Delete its files in OUT."
            )
            for name in sorted(gone)
            if any(self._path.parent.glob(f"images*/{glob.escape(name)}_[0-9][0-9][0-9][0-9].nii.gz"))
        ]

    def add(self, case: SourceCase, written: WrittenCase, *, dataset: SourceDataset) -> None:
        """Add a finished case; it is on the disk before this returns."""
        entry = {
            "case": case.case_id,
            "key": case_key(case, dataset),
            "values": list(written.values),
            "num_links": written.num_links,
            "notes": list(written.notes),
        }
        append_json_line(self._path, entry)


def case_key(case: SourceCase, dataset: SourceDataset) -> str:
    """Return a digest of everything that the converted files depend on."""
    files = [
        (path.name, status.st_size, status.st_mtime_ns)
        for one in case.paths
        for path in ([one] if not one.is_dir() else sorted(one.rglob("*")))
        for status in [path.stat()]
    ]
    settings = [
        list(dataset.channel_names),
        list(dataset.values.items()),
        sorted(dataset.renumber.items()),
        dict(dataset.settings),
    ]
    return hashlib.sha256(json.dumps([case.case_id, files, settings], sort_keys=True).encode()).hexdigest()
