"""Records which cases of an output folder are finished, so that the same command continues where it stopped.

Owns: `ResumeLog`, one line per finished case in `cases.jsonl`, and how a finished case is recognized: by digests of its
inputs and outputs, never by the mere existence of a file.
Does not own: which files a case has, or how they are made.
"""

import dataclasses
import hashlib
import json
import logging
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
from autoseg.system.atomic_files import file_sha256
from autoseg.system.json_lines import append_json_line, read_json_lines

LOG_NAME = "cases.jsonl"

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class FinishedCase:
    """A case whose files were all written.

    Attributes:
        case_id: The name of the case.
        key: A digest of its inputs: scans, model, settings.
        files: The SHA-256 of each file, by its name in the output folder.
        seconds: The time that the case took.
        message: The warnings about the case.
        organs: The statistics of its label map.
    """

    case_id: str
    key: str
    files: dict[str, str]
    seconds: float
    message: str
    organs: tuple[OrganStatistics, ...]


class ResumeLog:
    """The finished cases of an output folder; each rank writes a file of its own."""

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        """Read which cases earlier runs finished."""
        self._path = folder / (LOG_NAME.replace(".", f".{rank}.", 1) if rank else LOG_NAME)
        self._cases: dict[str, FinishedCase] = {}
        self._lock = threading.Lock()  # cases are finished by several threads
        paths = [path for path in folder.glob(LOG_NAME.replace(".", "*.", 1)) if path.is_file()]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):  # the latest record of a case counts
            cases = map(_parse, read_json_lines(path))
            self._cases |= {case.case_id: case for case in cases if case is not None}

    def find(self, case_id: str, *, key: str) -> FinishedCase | None:
        """Return the case if its inputs are the same and all of its files are still as they were written.

        Otherwise, its files are removed: old masks next to a new label map, or the old label map of a case that now
        fails, would be taken for results.
        """
        case = self._cases.get(case_id)
        if case is None:
            return None
        changed = [name for name, digest in case.files.items() if not self._is_unchanged(name, digest)]
        if case.key == key and not changed:
            return case
        if case.key == key:
            log.warning("%s: %s has changed since it was written; it is made again.", case_id, changed[0])
        for name in case.files:
            (self._path.parent / name).unlink(missing_ok=True)
        return None

    def _is_unchanged(self, name: str, digest: str) -> bool:
        path = self._path.parent / name
        return path.is_file() and file_sha256(path) == digest

    def add(self, case: FinishedCase) -> None:
        """Add a finished case; it is on the disk before this returns.

        Raises:
            OSError: The file cannot be written.
        """
        with self._lock:
            append_json_line(self._path, dataclasses.asdict(case))
            self._cases[case.case_id] = case


def case_key(case: CaseFiles, recipe: str, *, point_prompts: object = None) -> str:
    """Return a digest of everything that a case's label map depends on: bytes of its scans, recipe, points.

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
    """Convert points to JSON: arrays and tuples become lists, integers of any type become numbers."""
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


def _parse(content: Any) -> FinishedCase | None:
    """Return the finished case that a line describes; None for a line that autoseg did not write."""
    try:
        content["organs"] = tuple(parse_organ(organ) for organ in content["organs"])
        case = FinishedCase(**content)
        texts = (case.case_id, case.key, case.message, *case.files, *case.files.values())
        if not all(isinstance(text, str) for text in texts) or not _is_number(case.seconds):
            raise TypeError("not the record of a case")
        if not all(_is_file_of(name, case.case_id) for name in case.files):
            raise ValueError("files that are not of this case")
        return case
    except (ValueError, KeyError, TypeError, AttributeError):
        log.debug("a line of %s is not the record of a case and is skipped", LOG_NAME)
        return None


def _is_file_of(name: str, case_id: str) -> bool:
    """Return whether a file name, relative to the output folder, is one that `export/` gives to a file of this case."""
    *folders, last = name.split("/")
    is_own = folders[1:] == [case_id] or (len(folders) < 2 and last.startswith(f"{case_id}."))
    return is_own and all(part not in ("", ".", "..") and "\0" not in part for part in (*folders, last))


def parse_organ(content: dict[str, Any]) -> OrganStatistics:
    """Return the statistics of an organ from their JSON form.

    Raises:
        ValueError, KeyError, TypeError: The content has another form.
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
