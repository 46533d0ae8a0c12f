"""`metrics.jsonl`: one line an epoch, appended, readable while the run goes on.

Owns: writing and reading that file, forward beside inverse.
"""

import json
from pathlib import Path
from typing import Any

from autoseg.system.atomic_files import parse_json, write_text


def append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Append one epoch's record, whole or not at all.

    Raises:
        OSError: The disk is full.
    """
    line = (json.dumps(record, allow_nan=False) + "\n").encode("utf-8")
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while line:
                line = line[file.write(line) :]
        except OSError:
            file.truncate(size)  # a part of a line would hide all lines that are appended later
            raise


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read all records; a last line that was cut off by a kill is left out."""
    if not path.is_file():  # a pipe would let us wait for ever
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            break
        is_record = isinstance(record, dict) and isinstance(record.get("step"), int)
        if not is_record:  # a number can be what is left of a line
            break
        records.append(record)
    return records


def keep_until(path: Path, *, step: int) -> None:
    """Drop the records after `step`: a resumed run writes them again."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
