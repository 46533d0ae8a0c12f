"""The dataset report: every problem of every case, written for people and read again when the same command is repeated.

Owns: the form of `dataset_report.json`, and the stamp that tells whether the files are the same as before.
Does not own: finding problems (`fingerprint.py`, `dataset.py`), what follows from them (`command.py`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg.dataset import CaseFiles, Dataset
from autoseg.errors import Problem, UsageError
from autoseg.files import read_json, write_json

REPORT_VERSION = 1
STAGES = ("layout", "contents", "plan", "preprocessing")


def stamp_files(dataset: Dataset) -> str:
    """Return a digest of the declaration and of name, size and time of change of every file of a dataset."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((REPORT_VERSION, dataset.name, dataset.channel_names, dataset.labels)).encode())
    for case in dataset.cases:
        digest.update(repr((case.case_id, case.patient_id, case.volumes)).encode(errors="surrogateescape"))
        for path in _paths(case):
            try:
                facts = path.stat()
            except OSError:
                digest.update(b"missing")
                continue
            digest.update(repr((path.name, facts.st_size, facts.st_mtime_ns)).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _paths(case: CaseFiles) -> list[Path]:
    return [*case.image_paths, *([] if case.label_path is None else [case.label_path])]


def write_report(
    path: Path, *, dataset: Dataset, stamp: str, used: Sequence[str], problems: Mapping[str, Sequence[Problem]]
) -> None:
    """Write the report.

    Args:
        path: Of `dataset_report.json`.
        dataset: As it was read.
        stamp: From `stamp_files`.
        used: The cases that the run uses.
        problems: For each of `STAGES` what it found.
    """
    entries: list[dict[str, Any]] = [
        {"stage": stage, "case_id": item.case_id, "message": item.message, "is_error": item.is_error}
        for stage in STAGES
        for item in problems.get(stage, ())
    ]
    failed = {entry["case_id"] for entry in entries if entry["is_error"]}
    noted = {entry["case_id"] for entry in entries}
    names = sorted({case.case_id for case in dataset.cases} | {name for name in noted if name})
    status = {name: "error" if name in failed else "warning" if name in noted else "good" for name in names}
    content = {
        "version": REPORT_VERSION,
        "dataset": dataset.name,
        "stamp": stamp,
        "num_cases": len(names),
        "num_used": len(used),
        "cases": status,
        "problems": entries,
    }
    write_json(path, content)


def read_problems(path: Path, *, stamp: str, stage: str) -> tuple[Problem, ...] | None:
    """Read the problems of one stage again; None where there is no report of just these files."""
    try:
        content: Any = read_json(path)
        if content["version"] != REPORT_VERSION or content["stamp"] != stamp:
            return None
        return tuple(
            Problem(entry["case_id"], entry["message"], bool(entry["is_error"]))
            for entry in content["problems"]
            if entry["stage"] == stage
        )
    except (UsageError, KeyError, TypeError):
        return None  # absent, damaged or of another form: the scans are read again
