"""Files that are complete or absent: atomic writing, strict JSON, digests.

Owns: how bytes, text and JSON reach the disk, for every module.
Does not own: scan files (`image_io.py`, which writes through here).
"""

import errno
import glob
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoseg.errors import UsageError

TEMPORARY_PREFIX = ".writing-"
NAME_LETTERS = 40  # of a file's name that its temporary name tells; names have 255 bytes at most
FREE_SPACE = "Free space there or choose another place."
# Faults of the disk rather than of one file: all that is written after it would fail too.
DISK_FAULTS = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EROFS: "Choose another place.",
    errno.EIO: "Check the disk, or choose another place.",
    errno.EFBIG: "The file system or `ulimit -f` allows no larger file; choose another place.",
}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name in the folder of `path`; on a clean exit it is flushed and takes the name of `path`.

    The temporary name ends as `path` does, since some writers choose their format by it. On any exception the
    temporary file is removed and what was at `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=_temporary_prefix(path), suffix="".join(path.suffixes[-2:]) or ".tmp"
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_current_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, readable by a person; NaN and infinity are refused.

    A file's name may be any bytes; what of it is no Unicode stands as JSON's own escapes, so reading gives it back.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, re.sub("[\ud800-\udfff]", lambda letter: f"\\u{ord(letter[0]):04x}", text) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON strictly.

    Raises:
        UsageError: The file is missing, is not UTF-8 or JSON, holds a key twice, or holds NaN or infinity.
    """
    try:
        return json.loads(
            Path(path).read_text(encoding="utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}. Repair the file.") from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder; nobody else may be writing there."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_file():
            path.unlink()


def find_disk_fault(error: BaseException | None) -> OSError | None:
    """Return the full, read-only or broken disk behind an error, or None where it has another reason."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            return error
        error = error.__cause__
    return None


def explain_write_error(error: OSError, place: Path | str) -> str:
    """Say which file cannot be written, why, and what to do; `place` stands in where the error names none."""
    name = error.filename if isinstance(error.filename, str) else place
    if Path(name).name.startswith(TEMPORARY_PREFIX):
        name = place
    fault = error.strerror or str(error) or type(error).__name__
    return f"{name} cannot be written: {fault}. {DISK_FAULTS.get(error.errno or 0, FREE_SPACE)}"


def remove_leftovers_of(path: Path) -> None:
    """Remove what killed writers of this one file left beside it, in a folder that others may be writing to."""
    for leftover in path.parent.glob(f"{glob.escape(_temporary_prefix(path))}*"):
        leftover.unlink(missing_ok=True)


def _temporary_prefix(path: Path) -> str:
    return f"{TEMPORARY_PREFIX}{path.name[:NAME_LETTERS]}-"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands there twice")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
