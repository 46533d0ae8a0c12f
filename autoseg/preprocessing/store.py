"""Preprocessed cases on disk, so that training reads single slices quickly.

Owns: the folder of a case (`image.b2nd`, `labels.b2nd`, `case.json`) and when it counts as current; the only user of
blosc2.
Does not own: how a case is made (`case.py`), nor which cases are wanted (`run.py`).

A case is written under a temporary name and its folder renamed at the end, so it is complete or absent. Single files
are not flushed to the disk one by one; `case.json` holds their sizes instead, so that a file cut short by a power
failure makes the case stale rather than wrong.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.errors import DatasetError, UsageError
from autoseg.files import TEMPORARY_PREFIX, read_json
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.store_sums import file_sum
from autoseg.preprocessing.transform import CaseTransform

if TYPE_CHECKING:
    import blosc2

STORE_VERSION = 1
CHUNK_BYTES = 4 << 20  # a chunk is the unit of the file; its blocks are the slices, and only those asked for are read


class CaseStore:
    """The preprocessed cases of one run."""

    def __init__(self, folder: Path, *, data_hash: str | None = None) -> None:
        """Open a store, which may not exist yet.

        Args:
            folder: Holds one folder a case.
            data_hash: `plans.data.hash()`. With it, reading a case made by another plan is an error.
        """
        self.folder = Path(folder)
        self.data_hash = data_hash
        self._records: dict[str, dict[str, Any]] = {}

    def write(self, case_id: str, case: PreprocessedCase, data_hash: str, *, sources: Sequence[str] = ()) -> None:
        """Write a case, complete or not at all; one that is there is replaced.

        Args:
            case_id: Name of its folder.
            case: The arrays.
            data_hash: Hash of the plan that made it.
            sources: Whatever identifies the files it was made from; `is_current` compares it.

        Raises:
            DatasetError: The id cannot be the name of a folder.
            OSError: The disk is full, or the folder cannot be written.
        """
        target = self._case_folder(case_id)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=TEMPORARY_PREFIX))
        try:
            temporary.chmod(0o777 & ~_umask())
            sizes = {"image.b2nd": _write_array(temporary / "image.b2nd", case.image)}
            if case.labels is not None:
                sizes["labels.b2nd"] = _write_array(temporary / "labels.b2nd", case.labels)
            record = {
                "version": STORE_VERSION,
                "data_hash": data_hash,
                "sources": list(sources),
                "bytes": sizes,
                "sums": {name: file_sum(temporary / name) for name in sizes},
                "shape": list(case.image.shape),
                "transform": case.transform.to_json(),
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
        """Say whether the case is there, whole, made with this hash and (where given) from these sources."""
        try:
            record = read_json(self._case_folder(case_id) / "case.json")
        except UsageError:
            return False
        if not isinstance(record, dict) or record.get("version") != STORE_VERSION:
            return False
        return (
            record.get("data_hash") == data_hash
            and (sources is None or record.get("sources") == list(sources))
            and self._is_whole(case_id, record)
        )

    def case_ids(self) -> list[str]:
        """List the cases that are there, by name, whatever plan made them."""
        return sorted(path.parent.name for path in self.folder.glob("[!.]*/case.json"))

    def shape(self, case_id: str) -> tuple[int, int, int, int]:
        """Return (channels, slices, rows, columns)."""
        channels, slices, rows, columns = self._record(case_id)["shape"]
        return channels, slices, rows, columns

    def open_image(self, case_id: str) -> "blosc2.NDArray":
        """Open the image, (C, S, R, W) float32; slicing it as an array reads only the slices asked for."""
        return self._open(case_id, "image.b2nd")

    def open_labels(self, case_id: str) -> "blosc2.NDArray":
        """Open the organ indices, (S, R, W) uint8 or uint16.

        Raises:
            DatasetError: The case has no labels.
        """
        return self._open(case_id, "labels.b2nd")

    def read_transform(self, case_id: str) -> CaseTransform:
        """Return the way back to the file grid."""
        return CaseTransform.from_json(self._record(case_id)["transform"])

    def organ_slices(self, case_id: str) -> dict[int, np.ndarray]:
        """Return for each organ index that the case holds the slices it appears in, ascending."""
        ranges = self._record(case_id)["organ_slices"]
        return {int(k): np.concatenate([np.arange(start, stop) for start, stop in ranges[k]]) for k in ranges}

    def sums(self, case_id: str) -> dict[Path, int]:
        """Return the files of a case with the sums that they were written with; none of a case of an older autoseg."""
        found: dict[str, int] = self._record(case_id).get("sums", {})
        return {self._case_folder(case_id) / name: value for name, value in found.items()}

    def remove_leftovers(self) -> None:
        """Remove what a killed process left half-written; nobody else may be writing."""
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(path)

    def _open(self, case_id: str, name: str) -> "blosc2.NDArray":
        import blosc2  # here, since it takes 0.4 s to load and a store that is current needs none of it

        if name not in self._record(case_id)["bytes"]:
            raise DatasetError(f"the preprocessed case {case_id} has no labels. Train on labelled cases only.")
        path = self._case_folder(case_id) / name
        try:
            array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))
        except RuntimeError as error:
            raise DatasetError(f"{path} is damaged ({error}). Delete its folder and run autoseg_plan again.") from error
        if not isinstance(array, blosc2.NDArray):
            raise DatasetError(f"{path} is not an array of autoseg. Delete it and run autoseg_plan again.")
        return array

    def _record(self, case_id: str) -> dict[str, Any]:
        """Read and check `case.json` once."""
        if case_id not in self._records:
            try:
                record = read_json(self._case_folder(case_id) / "case.json")
            except UsageError as error:
                raise DatasetError(f"{error} Run autoseg_plan again: it preprocesses this case anew.") from error
            is_known = isinstance(record, dict) and record.get("version") == STORE_VERSION
            if not is_known or not self._is_whole(case_id, record):
                raise DatasetError(
                    f"the preprocessed case {case_id} in {self.folder} is damaged, or of another version. "
                    "Run autoseg_plan again: it preprocesses this case anew."
                )
            if self.data_hash is not None and record.get("data_hash") != self.data_hash:
                raise DatasetError(
                    f"the preprocessed case {case_id} in {self.folder} was made with another plan "
                    f"(hash {record.get('data_hash')}, expected {self.data_hash}). "
                    "Run autoseg_plan again: it preprocesses this case anew."
                )
            self._records[case_id] = record
        return self._records[case_id]

    def _is_whole(self, case_id: str, record: dict[str, Any]) -> bool:
        folder = self._case_folder(case_id)
        try:
            return all((folder / name).stat().st_size == size for name, size in record["bytes"].items())
        except (OSError, KeyError, AttributeError):
            return False

    def _case_folder(self, case_id: str) -> Path:
        if not case_id or case_id.startswith(".") or "/" in case_id or "\0" in case_id:
            raise DatasetError(f"{case_id!r} cannot be the name of a folder. Rename the files of this case.")
        return self.folder / case_id


def _write_array(path: Path, array: np.ndarray) -> int:
    """Write one compressed array and return the size of the file; each slice of each channel is one block.

    It is compressed in memory and written by Python, which notices a full disk. For a small array the time counts
    (LZ4), for a large one its place on the disk (Zstandard takes three times as long and a third less room).
    """
    import blosc2

    *leading, slices, rows, columns = array.shape
    slices_a_chunk = max(1, min(slices, CHUNK_BYTES // max(1, array.nbytes // slices)))
    parameters = blosc2.CParams(
        codec=blosc2.Codec.LZ4 if array.nbytes <= CHUNK_BYTES else blosc2.Codec.ZSTD,
        clevel=1,
        filters=[blosc2.Filter.SHUFFLE],
        typesize=array.itemsize,
        nthreads=1,
    )
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        cparams=parameters,
        dparams=blosc2.DParams(nthreads=1),
        chunks=(*leading, slices_a_chunk, rows, columns),
        blocks=(*(1 for _ in leading), 1, rows, columns),
        contiguous=True,
    )
    return path.write_bytes(packed.to_cframe())


def _organ_slices(labels: np.ndarray) -> dict[str, list[list[int]]]:
    """Find the slices of each organ as [start, stop] ranges; the ignored index is no organ."""
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
    """Lay JSON out so that a person can read it and ten thousand ranges do not take a line each."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
