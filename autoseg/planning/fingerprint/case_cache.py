"""Caches the measurements of each case in a file, so that later runs only read cases that changed.

Owns: `CaseCache`, `CaseEntry`, `ValuesEntry`, `FileState`, the form of their file.
Does not own: the measurements (`measure_case.py`), which cases are read (`extract.py`).

A case counts as unchanged if its files have the same paths, sizes and modification times. The file has one line per
case: a digest of the line, and the case as JSON. It is untrusted: lines that are damaged, of another format or of
another declaration are ignored, and their cases are read again. It is always written as a whole.
"""

import base64
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from autoseg.datasets.labels import MAX_VALUE
from autoseg.errors import Problem
from autoseg.planning.fingerprint.case_statistics import MAX_SAMPLE_PER_CASE, CaseStatistics
from autoseg.planning.fingerprint.measure_case import CaseScanResult
from autoseg.system.atomic_files import write_bytes

FILE_STEM, FILE_ENDING = "dataset_cache", ".jsonl"
MAX_BYTES = 1 << 31  # of the file; ten thousand cases of one channel have some 300 MB
SECONDS_BETWEEN_SAVES = 20.0  # of reading, that a kill may lose

log = logging.getLogger("autoseg")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FileState(NamedTuple):
    """The size and modification time of a file, by which it counts as unchanged."""

    num_bytes: int
    mtime_ns: int


def find_states(paths: Iterable[Path]) -> tuple[FileState, ...] | None:
    """Return the state of files; None if one does not exist."""
    try:
        return tuple(FileState(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in paths))
    except OSError:
        return None


class KeptProblem(_Strict):
    """A `Problem` of the case."""

    message: str
    is_error: bool


class CaseEntry(_Strict):
    """The measurements of one case.

    Attributes:
        form: The version of the format, raised when the measurements or checks change.
        case_id: The name of the case.
        recipe: A digest of everything that the measurements depend on, except for the files.
        files: The states of its images by channel, then of its label map.
        facts: The measurements; None if the case cannot be used.
        problems: The problems of the case.
        sample: A sample of the voxels of its organs, compressed.
    """

    form: Literal[1] = 1
    case_id: str
    recipe: str
    files: tuple[FileState, ...]
    facts: CaseStatistics | None
    problems: tuple[KeptProblem, ...]
    sample: str | None

    def to_result(self, *, patient_id: str, num_channels: int) -> CaseScanResult:
        """Return the result of `scan_case`.

        Args:
            patient_id: The patient as declared now.
            num_channels: The number of channels of the dataset.

        Raises:
            ValueError: The parts of the entry do not fit together.
        """
        facts = self.facts
        if facts is not None:
            if facts.case_id != self.case_id or len(facts.channels) != num_channels:
                raise ValueError(f"the facts of {self.case_id!r} are of another case")
            facts = facts.model_copy(update={"patient_id": patient_id})
        sample = None if self.sample is None else _unpack(self.sample, num_channels=num_channels)
        problems = tuple(Problem(self.case_id, item.message, item.is_error) for item in self.problems)
        return CaseScanResult(self.case_id, facts, problems, sample)


class ValuesEntry(_Strict):
    """The values in a label map, for a dataset that does not name its labels.

    Attributes:
        form: The version of the format.
        name: A digest of the path of the file.
        file: The state of the file when it was read.
        values: The result of `list_label_values`.
    """

    form: Literal["values 1"] = "values 1"
    name: str
    file: FileState
    values: tuple[Annotated[int, Field(ge=1, le=MAX_VALUE)], ...]


_ANY_ENTRY: TypeAdapter[CaseEntry | ValuesEntry] = TypeAdapter(
    Annotated[CaseEntry | ValuesEntry, Field(discriminator="form")]
)


def make_entry(result: CaseScanResult, *, recipe: str, files: tuple[FileState, ...]) -> CaseEntry | None:
    """Make an entry from the result of `scan_case`; None for names that are not Unicode, which JSON cannot store."""
    if not all(map(_is_unicode, (result.case_id, *(item.message for item in result.problems)))):
        return None
    return CaseEntry(
        case_id=result.case_id,
        recipe=recipe,
        files=files,
        facts=result.facts,
        problems=tuple(KeptProblem(message=item.message, is_error=item.is_error) for item in result.problems),
        sample=None if result.sample is None else _pack(result.sample),
    )


def _is_unicode(text: str) -> bool:
    return text.encode(errors="replace").decode() == text


def cache_name(dataset: str | None) -> str:
    """Return the name of the cache in a run folder; `dataset` is the name of one of several datasets, or None."""
    return f"{FILE_STEM}{'' if dataset is None else f'_{dataset}'}{FILE_ENDING}"


class CaseCache:
    """The entries of one dataset."""

    def __init__(self, path: Path | None) -> None:
        """Read the entries.

        Args:
            path: The file; None writes nothing.
        """
        self._path = path
        self._entries, self._values = ({}, {}) if path is None else _read(path)
        self.fresh: set[str] = set()  # the cases that were measured in this run
        self._asked: set[str] = set()  # names of label maps
        self._is_changed = False
        self._saved = time.monotonic()

    def find(self, case_id: str, *, recipe: str) -> CaseEntry | None:
        """Return the entry of a case if it has this recipe."""
        entry = self._entries.get(case_id)
        return entry if entry is not None and entry.recipe == recipe else None

    def find_values(self, name: str) -> ValuesEntry | None:
        """Return the entry of a label map."""
        self._asked.add(name)
        return self._values.get(name)

    def keep_values(self, entry: ValuesEntry) -> None:
        """Add the values of a label map; `save` writes them."""
        self._values[entry.name] = entry
        self._is_changed = True

    def keep(self, entry: CaseEntry) -> None:
        """Add an entry, which is written every few seconds and by `save`.

        Raises:
            OSError: The file cannot be written.
        """
        self._entries[entry.case_id] = entry
        self.fresh.add(entry.case_id)
        self._is_changed = True
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self.save()

    def entries(self) -> list[CaseEntry]:
        """Return the entries of all cases."""
        return list(self._entries.values())

    def forget_others(self, case_ids: Iterable[str]) -> None:
        """Drop the entries of all other cases, and of label maps that were not looked up."""
        others, unasked = self._entries.keys() - set(case_ids), self._values.keys() - self._asked
        self._is_changed |= bool(others or unasked)
        for case_id in others:
            del self._entries[case_id]
        for name in unasked:
            del self._values[name]

    def save(self) -> None:
        """Write the file, if anything changed since it was read.

        Raises:
            OSError: It cannot be written.
        """
        self._saved = time.monotonic()
        if self._path is None or not self._is_changed:
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        entries: list[CaseEntry | ValuesEntry] = [*self._values.values(), *self._entries.values()]
        write_bytes(self._path, b"".join(map(_to_line, entries)))
        self._is_changed = False


def _to_line(entry: CaseEntry | ValuesEntry) -> bytes:
    content = json.dumps(entry.model_dump(mode="json"), allow_nan=False, separators=(",", ":")).encode("ascii")
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode() + b" " + content + b"\n"


def _read(path: Path) -> tuple[dict[str, CaseEntry], dict[str, ValuesEntry]]:
    cases: dict[str, CaseEntry] = {}
    values: dict[str, ValuesEntry] = {}
    try:
        is_file = path.is_file() and path.stat().st_size <= MAX_BYTES  # to open a pipe would wait for ever
        lines = path.read_bytes().splitlines() if is_file else []
    except OSError:
        return cases, values
    for line in lines:
        digest, _, content = line.partition(b" ")
        if hashlib.blake2b(content, digest_size=16).hexdigest().encode() != digest:
            log.debug("a line of %s is damaged; what it was of is read again", path.name)
            continue
        try:
            entry = _ANY_ENTRY.validate_json(content, strict=True)
        except ValidationError:
            continue  # of another version
        if isinstance(entry, CaseEntry):
            cases[entry.case_id] = entry
        else:
            values[entry.name] = entry
    return cases, values


def _pack(sample: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(sample.astype("<f4").tobytes(), 1)).decode("ascii")


def _unpack(text: str, *, num_channels: int) -> np.ndarray:
    """Return the (C, N) float32 sample, finite, of at most `MAX_SAMPLE_PER_CASE` columns.

    Raises:
        ValueError: The text is not a sample.
    """
    most = 4 * num_channels * MAX_SAMPLE_PER_CASE
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not 0 < len(content) <= most or len(content) % (4 * num_channels):
        raise ValueError(f"a sample of {len(content)} bytes; expected up to {most}")
    sample = np.frombuffer(content, "<f4").astype(np.float32).reshape(num_channels, -1)
    if not np.isfinite(sample).all():
        raise ValueError("a sample with numbers that are not finite")
    return sample
