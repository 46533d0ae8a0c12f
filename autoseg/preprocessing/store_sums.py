"""Checksums of preprocessed cases: a flipped bit in a compressed array decompresses to other voxels, without a word.

Owns: the sum of a file, and the check before a training that reads the cases.
Does not own: where the sums lie (`case.json`, `store.py`).
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.errors import DatasetError

if TYPE_CHECKING:
    from autoseg.preprocessing.store import CaseStore

CHUNK_BYTES = 1 << 20


def file_sum(path: Path) -> int:
    """Return the CRC-32 of a file, which sees every accident; it is no protection against intent."""
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            total = zlib.crc32(chunk, total)
    return total


def check_cases(store: "CaseStore", case_ids: Sequence[str], *, max_bytes: int) -> None:
    """Compare the files of cases with the sums they were written with.

    Args:
        store: Where they are.
        case_ids: In this order.
        max_bytes: Of files that are read for it; what goes beyond would be read from the disk twice.

    Raises:
        DatasetError: Files are damaged; names every one.
    """
    left, damaged = max_bytes, []
    for case_id in case_ids:
        for path, expected in store.sums(case_id).items():
            left -= path.stat().st_size
            if left >= 0 and file_sum(path) != expected:
                damaged.append(path)
    if damaged:
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in damaged)
        raise DatasetError(
            f"preprocessed cases in {store.folder} are damaged, their checksums fail: {names}. Delete the folders of "
            "these cases and run autoseg_plan again: it preprocesses them anew."
        )
