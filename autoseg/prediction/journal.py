"""What is done in an output folder, so that the same command goes on where it stopped.

Owns: `Journal`, a line a finished case in `cases.jsonl`, and how such a case is known again: by what went into it and
what came out of it, never by the mere existence of a file.
Does not own: what a case's files are, or how they are made.
"""

import dataclasses
import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.dataset import CaseFiles
from autoseg.errors import ScanFileError
from autoseg.files import file_sha256
from autoseg.outputs.statistics import OrganStatistics
from autoseg.scan_bytes import display_name

JOURNAL_NAME = "cases.jsonl"

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class FinishedCase:
    """A case that was written whole.

    Attributes:
        case_id: Its name.
        key: What went into it: scans, model, settings.
        files: SHA-256 by file name in the output folder.
        seconds: Time it took.
        message: What was odd.
        organs: What its label map says in numbers.
    """

    case_id: str
    key: str
    files: dict[str, str]
    seconds: float
    message: str
    organs: tuple[OrganStatistics, ...]


class Journal:
    """The finished cases of an output folder; each rank that works on it writes a file of its own."""

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        """Read what earlier runs finished; a line that a kill cut off counts as not written."""
        self._path = folder / (JOURNAL_NAME.replace(".", f".{rank}.", 1) if rank else JOURNAL_NAME)
        self._cases: dict[str, FinishedCase] = {}
        self._ends_in_line = True
        self._one_at_a_time = threading.Lock()  # cases are written side by side
        paths = folder.glob(JOURNAL_NAME.replace(".", "*.", 1))
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):  # the latest word on a case counts
            content = path.read_bytes()
            for line in content.splitlines():
                case = _parse(line)
                if case is not None:
                    self._cases[case.case_id] = case
            if path == self._path:
                self._ends_in_line = not content or content.endswith(b"\n")

    def find(self, case_id: str, *, key: str) -> FinishedCase | None:
        """Return the case if the same went into it and every file of it is still as it was written.

        Else what an earlier run wrote of it is removed: old masks beside a new label map, or an old map of a case that
        now fails, would be taken for results.
        """
        case = self._cases.get(case_id)
        if case is None:
            return None
        changed = [name for name, digest in case.files.items() if not self._holds(name, digest)]
        if case.key == key and not changed:
            return case
        if case.key == key:
            log.warning("%s: %s has changed since it was written; it is made anew.", case_id, changed[0])
        for name in case.files:
            if not (Path(name).is_absolute() or ".." in Path(name).parts):  # the journal is a file like any other
                (self._path.parent / name).unlink(missing_ok=True)
        return None

    def _holds(self, name: str, digest: str) -> bool:
        path = self._path.parent / name
        return path.is_file() and file_sha256(path) == digest

    def add(self, case: FinishedCase) -> None:
        """Write a case down, on the disk before this returns.

        Raises:
            OSError: It cannot be written.
        """
        line = json.dumps(dataclasses.asdict(case), allow_nan=False)
        with self._one_at_a_time:
            begin, self._ends_in_line = b"" if self._ends_in_line else b"\n", False  # until the line is whole
            with self._path.open("ab") as file:
                file.write(begin + line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self._ends_in_line = True
            self._cases[case.case_id] = case


def case_key(case: CaseFiles, recipe: str, *, clicks: object = None) -> str:
    """Return a digest of all that decides a case's label map: bytes of its scans, recipe, clicks.

    Raises:
        ScanFileError: A scan cannot be read.
    """
    digest = hashlib.sha256(json.dumps([recipe, _plain(clicks), case.volumes]).encode())
    for path in case.image_paths:
        try:
            digest.update(_sha256(path).encode())
        except OSError as error:
            why = f"{display_name(path)} cannot be read: {error.strerror or error}."
            raise ScanFileError(f"{why} Check its permissions and the disk.") from error
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Turn clicks into what JSON holds: arrays and tuples are lists, whole numbers of any type are numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value]
    return value if value is None else int(value)


def _sha256(path: Path) -> str:
    if not path.is_dir():
        return file_sha256(path)
    from autoseg.dicom_series import series_sha256  # SimpleITK loads only for DICOM

    return series_sha256(path)


def _parse(line: bytes) -> FinishedCase | None:
    try:
        content = json.loads(line)
        content["organs"] = tuple(parse_organ(organ) for organ in content["organs"])
        return FinishedCase(**content)
    except (ValueError, KeyError, TypeError):
        log.debug("a line of %s cannot be read and is passed over", JOURNAL_NAME)
        return None


def parse_organ(content: dict[str, Any]) -> OrganStatistics:
    """Make the numbers of an organ from their plain values.

    Raises:
        ValueError, KeyError, TypeError: They are something else.
    """
    box = content["box_ijk"]
    content["box_ijk"] = None if box is None else tuple((first, last) for first, last in box)
    return OrganStatistics(**content)
