"""Reads and appends to files of JSON Lines: one JSON value per line, which a kill or a full disk may cut off.

Owns: `append_json_line`, `read_json_lines`.
Does not own: what a line contains (`training/logging/metrics_log.py`, and the two files called `resume_log.py`).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoseg.system.atomic_files import parse_json


def append_json_line(path: Path, content: Any) -> None:
    """Append a line, whole or not at all; it is on the disk before this returns.

    A last line that a kill cut off stays a line of its own, which `read_json_lines` skips.

    Raises:
        OSError: The file cannot be written.
        ValueError: The content contains a number that is not finite.
    """
    line = json.dumps(content, allow_nan=False).encode() + b"\n"
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)  # the rest of a line would hide the lines that are appended later
            raise


def read_json_lines(path: Path) -> Iterator[Any]:
    """Yield the values of all lines that can be read; there are none where the path is not a file.

    Raises:
        OSError: The file cannot be read.
    """
    if path.is_file():  # reading a pipe would never end
        for line in path.read_bytes().splitlines():
            try:
                yield parse_json(line)
            except ValueError:
                continue
