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

from autoseg.datasets.dataset import CaseFiles
from autoseg.errors import ScanFileError
from autoseg.export.statistics import OrganStatistics
from autoseg.io.byte_stream import display_name
from autoseg.system.atomic_files import file_sha256, parse_json

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
        # Files alone: to read a pipe would be to wait for ever.
        paths = [path for path in folder.glob(JOURNAL_NAME.replace(".", "*.", 1)) if path.is_file()]
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
            log.warning("%s: %s has changed since it was written; it is made again.", case_id, changed[0])
        for name in case.files:
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


def case_key(case: CaseFiles, recipe: str, *, point_prompts: object = None) -> str:
    """Return a digest of all that decides a case's label map: bytes of its scans, recipe, points.

    Raises:
        ScanFileError: A scan cannot be read.
    """
    digest = hashlib.sha256(json.dumps([recipe, _plain(point_prompts), case.volumes]).encode())
    for path in case.image_paths:
        try:
            digest.update(_sha256(path).encode())
        except OSError as error:
            why = f"{display_name(path)} cannot be read: {error.strerror or error}."
            raise ScanFileError(f"{why} Check its permissions and the disk.") from error
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Turn points into what JSON holds: arrays and tuples are lists, whole numbers of any type are numbers."""
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
    from autoseg.io.dicom import series_sha256  # SimpleITK loads only for DICOM

    return series_sha256(path)


def _parse(line: bytes) -> FinishedCase | None:
    """Read a line; the journal is a file like any other, so one that is not of its form is as good as none."""
    try:
        content = parse_json(line)
        content["organs"] = tuple(parse_organ(organ) for organ in content["organs"])
        case = FinishedCase(**content)
        texts = (case.case_id, case.key, case.message, *case.files, *case.files.values())
        if not all(isinstance(text, str) for text in texts) or not _is_number(case.seconds):
            raise TypeError("not the record of a case")
        if not all(_is_file_of(name, case.case_id) for name in case.files):
            raise ValueError("files that are not of this case")
        return case
    except (ValueError, KeyError, TypeError, AttributeError):
        log.debug("a line of %s cannot be read and is passed over", JOURNAL_NAME)
        return None


def _is_file_of(name: str, case_id: str) -> bool:
    """Say whether a file's name, relative to the output folder, is one that a case of this name has: see `export/`."""
    *folders, last = name.split("/")
    is_own = folders[1:] == [case_id] or (len(folders) < 2 and last.startswith(f"{case_id}."))
    return is_own and all(part not in ("", ".", "..") and "\0" not in part for part in (*folders, last))


def parse_organ(content: dict[str, Any]) -> OrganStatistics:
    """Make the numbers of an organ from their plain values.

    Raises:
        ValueError, KeyError, TypeError: They are something else.
    """
    box = content["box_ijk"]
    content["box_ijk"] = None if box is None else tuple((first, last) for first, last in box)
    organ = OrganStatistics(**content)
    numbers = [organ.value, organ.num_voxels, organ.volume_ml]
    numbers += [one for one in (organ.mean_intensity, organ.expected_dice) if one is not None]
    edges = [edge for span in organ.box_ijk or () for edge in span]
    if not isinstance(organ.name, str) or len(edges) not in (0, 6) or not all(map(_is_number, (*numbers, *edges))):
        raise TypeError("not the numbers of an organ")
    return organ


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
