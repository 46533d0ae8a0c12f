"""Stores preprocessed cases on disk, so that training reads single slices quickly.

Owns: the folder of a case (`image.b2nd`, `labels.b2nd`, `case.json`) and when it counts as current.
Does not own: the form of the arrays (`array_file.py`) and of `case.json` (`case_record.py`), preprocessing
(`pipeline.py`), which cases are preprocessed (`pipelines/preprocess.py`).

A case is written under a temporary name and its folder is renamed at the end, so it is complete or absent. Files are
not flushed to the disk one by one; `case.json` contains their sizes instead, so that a case with a file cut short by a
power failure is preprocessed again. It also contains their SHA-256, which `find_damaged` compares, since blosc2 files
have no checksum.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import DatasetError, UsageError
from autoseg.preprocessing.array_file import StoredArray, open_array, pack_array
from autoseg.preprocessing.case_record import IMAGE, LABELS, STORE_VERSION, read_record
from autoseg.preprocessing.pipeline import CaseSource, PreprocessedCase
from autoseg.preprocessing.transform import CaseTransform
from autoseg.system.atomic_files import TEMPORARY_PREFIX, current_umask, file_sha256, read_json
from autoseg.system.process_pool import default_num_workers


class CaseStore:
    """The preprocessed cases of one run."""

    def __init__(self, folder: Path, *, data_hash: str | None = None) -> None:
        """Open a store, which may not exist yet.

        Args:
            folder: The folder of the store, with one folder per case.
            data_hash: `plans.data.hash()`; with it, reading a case of another plan is an error.
        """
        self.folder = Path(folder)
        self.data_hash = data_hash
        self._records: dict[str, dict[str, Any]] = {}

    def write(self, case_id: str, case: PreprocessedCase, data_hash: str, *, sources: Sequence[str] = ()) -> None:
        """Write a case, completely or not at all; an earlier one is replaced.

        Args:
            case_id: The name of its folder.
            case: The arrays.
            data_hash: The hash of the plan that it was made with.
            sources: Values that identify the files it was made from; `is_current` compares them.

        Raises:
            DatasetError: The id cannot be the name of a folder.
            OSError: The disk is full, or the folder cannot be written.
        """
        target = self._case_folder(case_id)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=TEMPORARY_PREFIX))
        try:
            temporary.chmod(0o777 & ~current_umask())
            frames = {IMAGE: pack_array(case.image)}
            if case.labels is not None:
                frames[LABELS] = pack_array(case.labels)
            sizes = {name: (temporary / name).write_bytes(frame) for name, frame in frames.items()}
            record = {
                "version": STORE_VERSION,
                "data_hash": data_hash,
                "sources": list(sources),
                "bytes": sizes,
                "sha256": {name: hashlib.sha256(frame).hexdigest() for name, frame in frames.items()},
                "shape": list(case.image.shape),
                "transform": case.transform.to_json(),
                "dataset": case.source.dataset,
                "annotated": None if case.source.annotated is None else list(case.source.annotated),
                "organ_slices": {} if case.labels is None else _organ_slices(case.labels),
            }
            (temporary / "case.json").write_text(_one_line_a_key(record), encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._records.pop(case_id, None)

    def is_current(self, case_id: str, data_hash: str, *, sources: Sequence[str] | None = None) -> bool:
        """Return whether the case is there, complete, and made with this hash and (if given) from these sources."""
        try:
            record = read_record(read_json(self._case_folder(case_id) / "case.json"))
        except UsageError:
            return False
        return (
            record is not None
            and record["data_hash"] == data_hash
            and (sources is None or record.get("sources") == list(sources))
            and self._is_whole(case_id, record)
        )

    def case_ids(self) -> list[str]:
        """List the names of all cases, whatever plan made them."""
        return sorted(path.parent.name for path in self.folder.glob("[!.]*/case.json"))

    def shape(self, case_id: str) -> tuple[int, int, int, int]:
        """Return (channels, slices, rows, columns)."""
        channels, slices, rows, columns = self._record(case_id)["shape"]
        return channels, slices, rows, columns

    def open_image(self, case_id: str) -> StoredArray:
        """Open the image, (C, S, R, W) float32; slicing it as an array reads only the slices asked for."""
        return self._open(case_id, IMAGE, shape=self.shape(case_id), dtypes=("float32",))

    def open_labels(self, case_id: str) -> StoredArray:
        """Open the organ indices, (S, R, W) uint8 or uint16.

        Raises:
            DatasetError: The case has no labels.
        """
        return self._open(case_id, LABELS, shape=self.shape(case_id)[1:], dtypes=("uint8", "uint16"))

    def read_transform(self, case_id: str) -> CaseTransform:
        """Return the transform between the file grid and the preprocessed grid."""
        return CaseTransform.from_json(self._record(case_id)["transform"])

    def source(self, case_id: str) -> CaseSource:
        """Return the dataset that the case comes from, and what was annotated in it."""
        record = self._record(case_id)
        annotated = record["annotated"]
        return CaseSource(record["dataset"], None if annotated is None else tuple(annotated))

    def organ_slices(self, case_id: str) -> dict[int, np.ndarray]:
        """Return the slices, ascending, in which each index of an organ or region appears."""
        ranges = self._record(case_id)["organ_slices"]
        return {int(k): np.concatenate([np.arange(start, stop) for start, stop in ranges[k]]) for k in ranges}

    def find_damaged(self, case_ids: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """Read the files of cases to their last byte, several at once; yield each case and whether it is damaged.

        Raises:
            DatasetError: A case is missing, incomplete, or of another plan.
        """
        with ThreadPoolExecutor(default_num_workers(), "checking") as pool:
            yield from zip(case_ids, pool.map(self._is_damaged, case_ids), strict=True)

    def remove(self, case_id: str) -> None:
        """Remove a case, so that it is preprocessed again.

        Raises:
            OSError: The folder cannot be written.
        """
        shutil.rmtree(self._case_folder(case_id))
        self._records.pop(case_id, None)

    def _is_damaged(self, case_id: str) -> bool:
        digests: dict[str, str] = self._record(case_id)["sha256"]
        folder = self._case_folder(case_id)
        return any(file_sha256(folder / name) != digest for name, digest in digests.items())

    def remove_leftovers(self) -> None:
        """Remove the temporary folders of killed processes; nobody else may be writing."""
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(path)

    def _open(self, case_id: str, name: str, *, shape: Sequence[int], dtypes: Sequence[str]) -> StoredArray:
        if name not in self._record(case_id)["bytes"]:
            raise DatasetError(f"the preprocessed case {case_id} has no labels. Train on labeled cases only.")
        path = self._case_folder(case_id) / name
        return open_array(path, shape=shape, dtypes=dtypes)

    def _record(self, case_id: str) -> dict[str, Any]:
        """Read and check `case.json` once."""
        if case_id not in self._records:
            folder = self._case_folder(case_id)
            try:
                record = read_record(read_json(folder / "case.json"))
            except UsageError as error:
                raise DatasetError(f"{error} Run autoseg_plan again: it preprocesses this case again.") from error
            if record is None or not self._is_whole(case_id, record):
                raise DatasetError(
                    f"the preprocessed case {case_id} in {self.folder} is damaged, or of another version. "
                    "Run autoseg_plan again: it preprocesses this case again."
                )
            if self.data_hash is not None and record["data_hash"] != self.data_hash:
                raise DatasetError(
                    f"the preprocessed case {case_id} in {self.folder} was made with another plan "
                    f"(hash {record['data_hash']:.40}, expected {self.data_hash}). "
                    "Run autoseg_plan again: it preprocesses this case again."
                )
            self._records[case_id] = record
        return self._records[case_id]

    def _is_whole(self, case_id: str, record: dict[str, Any]) -> bool:
        folder = self._case_folder(case_id)
        try:
            sizes = record["bytes"]
            return all((folder / name).is_file() and (folder / name).stat().st_size == sizes[name] for name in sizes)
        except OSError:
            return False

    def _case_folder(self, case_id: str) -> Path:
        if not case_id or case_id.startswith(".") or "/" in case_id or "\0" in case_id:
            raise DatasetError(f"{case_id!r} cannot be the name of a folder. Rename the files of this case.")
        return self.folder / case_id


def _organ_slices(labels: np.ndarray) -> dict[str, list[list[int]]]:
    """Find the slices of each organ as [start, stop] ranges, without the ignored index."""
    ignored = int(np.iinfo(labels.dtype).max)
    slices: dict[int, list[list[int]]] = {}
    for number, plane in enumerate(labels):
        for organ in np.flatnonzero(np.bincount(plane.ravel())).tolist():
            if organ in (0, ignored):
                continue
            ranges = slices.setdefault(organ, [])
            if ranges and ranges[-1][1] == number:
                ranges[-1][1] = number + 1
            else:
                ranges.append([number, number + 1])
    return {str(organ): slices[organ] for organ in sorted(slices)}


def _one_line_a_key(record: dict[str, Any]) -> str:
    """Format JSON with one key per line, so that ten thousand ranges do not take a line each."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
