"""Writes and reads `metrics.jsonl`: one line per epoch, appended, and readable while the run continues."""

import json
from pathlib import Path
from typing import Any

from autoseg.system.atomic_files import write_text
from autoseg.system.json_lines import append_json_line, read_json_lines


def append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Append the record of one epoch, whole or not at all.

    Raises:
        OSError: The disk is full.
    """
    append_json_line(path, record)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read all records; a line that was cut off by a kill is left out."""
    lines = read_json_lines(path)
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]


def keep_until(path: Path, *, step: int) -> None:
    """Drop the records after `step`, which a resumed run writes again."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
