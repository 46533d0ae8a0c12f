"""Writes files atomically, so that each is complete or absent, and reads JSON strictly.

Owns: how bytes, text and JSON are written, for every module; `parse_json`, the only JSON reader; digests of files.
Does not own: scan files (`io/image.py`, which writes through here), the checks of what JSON contains.

JSON is untrusted. The result of `parse_json` is plain, finite and shallow, so that it can be traversed, shown and
written again.
"""

import errno
import glob
import hashlib
import json
import math
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoseg.errors import UsageError

TEMPORARY_PREFIX = ".writing-"
NAME_LETTERS = 40  # of a file's name in its temporary name; names have at most 255 bytes
FREE_SPACE = "Free space there or choose another place."
# Faults of the disk rather than of one file: all that is written after it would fail too.
DISK_FAULTS = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EROFS: "Choose another place.",
    errno.EIO: "Check the disk, or choose another place.",
    errno.EFBIG: "The file system or `ulimit -f` allows no larger file; choose another place.",
}
PERMISSION = "Check the permissions there, or choose another place."
REMEDIES = {**DISK_FAULTS, errno.EACCES: PERMISSION, errno.EPERM: PERMISSION}
MOST_JSON_BYTES = 1 << 30  # the fingerprint of ten thousand cases with a hundred organs each has some 700 MB
MOST_DIGITS = 400  # of a whole number; a float ends at 309
MOST_JSON_DEPTH = 60  # our own files have six; Python's writers of JSON end at some hundreds


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path`; without an exception, its file is flushed and renamed to `path`.

    The temporary name has the ending of `path`, since some writers choose their format by it. On any exception the
    temporary file is removed, and an earlier file at `path` stays.
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
        temporary.chmod(0o666 & ~current_umask())
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
    """Write indented JSON atomically; NaN and infinity are refused.

    Letters of any script are written as they are. Control characters and bytes that are not Unicode (file names may
    contain any bytes) are written as JSON escapes, so that reading returns the same names.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    lines = (line if line.isprintable() else _escape_json(line) for line in text.split("\n"))
    write_text(path, "\n".join(lines) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON strictly; a byte order mark is ignored.

    Raises:
        UsageError: The file is missing, not a regular file, not UTF-8, or not JSON by the rules of `parse_json`.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            raise UsageError(f"{path} cannot be read as JSON: it is not a regular file. Give the path of a file.")
        if status.st_size > MOST_JSON_BYTES:
            raise UsageError(
                f"{path} cannot be read as JSON: it has {status.st_size} bytes; expected at most {MOST_JSON_BYTES}. "
                "Give another file."
            )
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist. Check the path.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read as JSON: {error.strerror or error}. Check its permissions.") from error
    except ValueError as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}. Repair the file.") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON strictly.

    Raises:
        ValueError: The text is not UTF-8 or not JSON, contains a key twice, a number that is not finite or has
            thousands of digits, or is nested deeper than any file of autoseg; in words for a message.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        content = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short_integer,
        )
    except RecursionError:
        raise ValueError(_too_deep()) from None
    level, depth = [content], 0
    while level := [child for parent in level for child in _children(parent)]:
        depth += 1
        if depth > MOST_JSON_DEPTH:
            raise ValueError(_too_deep())
    return content


def fault_of(error: OSError) -> str:
    """Explain what the system refused; the file is named without the folders above, which may name users."""
    if not error.strerror:
        return str(error)
    where = "" if error.filename is None else "/".join(Path(os.fsdecode(error.filename)).parts[-2:])
    return f"{where}: {error.strerror}" if where else error.strerror


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder; nobody else may be writing there."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_file():
            path.unlink()


def find_disk_fault(error: BaseException | None) -> OSError | None:
    """Return the error of a full, read-only or broken disk that caused an error; None if it has another cause."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            return error
        error = error.__cause__
    return None


def explain_write_error(error: OSError, place: Path | str) -> str:
    """Explain which file cannot be written, why, and what to do; `place` is named if the error names no file."""
    name = error.filename if isinstance(error.filename, str) else place
    if Path(name).name.startswith(TEMPORARY_PREFIX):
        name = place
    fault = error.strerror or str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0, FREE_SPACE)
    return f"{name} cannot be written: {fault}. {remedy}"


def remove_leftovers_of(path: Path) -> None:
    """Remove the temporary files that killed writers of this file left, in a folder that others may be writing to."""
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


def _children(value: Any) -> list[Any]:
    """List the objects and lists inside an object or a list."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in inside if isinstance(child, (dict, list))]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r:.80} occurs twice")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _short_integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"the number {text:.20}... has {len(text)} digits")
    return int(text)


def _too_deep() -> str:
    return f"objects and lists stand in each other more than {MOST_JSON_DEPTH} deep"


def _escape_json(line: str) -> str:
    """Write characters that are not printable as JSON escapes, those beyond U+FFFF as two."""
    return "".join(letter if letter.isprintable() else _json_escape(letter) for letter in line)


def _json_escape(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[k]:02x}{units[k + 1]:02x}" for k in range(0, len(units), 2))


def current_umask() -> int:
    """Return the user's umask: the permissions that new files do not get."""
    umask = os.umask(0)
    os.umask(umask)
    return umask
