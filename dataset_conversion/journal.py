"""Which cases of a dataset are converted, so that the same command goes on where it stopped.

Owns: `conversion.jsonl` in the dataset's folder: its first line names the conversion, each further one a finished case.
Does not own: the files of a case, which are complete or absent by themselves.

A case counts as finished where the same files went into it (by path, size and time of change), the same settings, and
all that it became is there.
"""

import glob
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg.errors import Problem, UsageError, printable
from autoseg.system.atomic_files import parse_json, write_text
from dataset_conversion.case_files import WrittenCase, target_names
from dataset_conversion.source import SourceCase, SourceDataset

JOURNAL_NAME = "conversion.jsonl"
FORM = 1  # another number where the same source becomes other files


class Journal:
    """The finished cases of one dataset."""

    def __init__(self, out: Path, *, name: str) -> None:
        """Read what earlier runs finished, or begin.

        Raises:
            UsageError: The folder holds something else than this dataset.
        """
        self._path = out / JOURNAL_NAME
        self._head = {"conversion": name, "form": FORM}
        lines = self._path.read_bytes().splitlines() if self._path.is_file() else []
        head, *entries = [*map(_parse, lines)] or [None]
        is_empty = not any(path for path in out.iterdir() if not path.name.startswith("."))
        if head != self._head and not (head is None and is_empty):
            raise UsageError(
                f"{printable(str(out))} holds something else than a conversion of {name}. Choose another folder, or "
                "delete it."
            )
        if head is None:
            write_text(self._path, f"{json.dumps(self._head)}\n")
        self._entries: dict[str, Mapping[str, Any]] = {
            entry["case"]: entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("case"), str)
        }

    def find(self, case: SourceCase, *, dataset: SourceDataset) -> WrittenCase | None:
        """Return what became of a case in an earlier run, or None where it is to be converted."""
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
        """Give a problem for each case of an earlier run that the source no longer has, while its files are there."""
        gone = self._entries.keys() - {case.case_id for case in cases}
        return [
            Problem(
                name, "is there from an earlier run, but not whole in the source any more. Delete its files in OUT."
            )
            for name in sorted(gone)
            if any(self._path.parent.glob(f"images*/{glob.escape(name)}_[0-9][0-9][0-9][0-9].nii.gz"))
        ]

    def add(self, case: SourceCase, written: WrittenCase, *, dataset: SourceDataset) -> None:
        """Write a finished case down, on the disk before this returns."""
        entry = {
            "case": case.case_id,
            "key": case_key(case, dataset),
            "values": list(written.values),
            "num_links": written.num_links,
            "notes": list(written.notes),
        }
        with self._path.open("ab") as file:
            file.write(f"\n{json.dumps(entry)}".encode())  # begins anew after a line that a kill cut off
            file.flush()
            os.fsync(file.fileno())


def case_key(case: SourceCase, dataset: SourceDataset) -> str:
    """Return a digest of all that decides what a case becomes."""
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


def _parse(line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return {}
