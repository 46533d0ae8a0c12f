"""When a file counts as the same as in an earlier run.

Owns: `FileState`, and the comparison of files with what was noted of them.
Does not own: what is kept for such files (`case_cache.py`).

A file is the same if its size, its time of change and its inode's are those that were noted. Where they are not, or
lay so near to the moment of the note that a later change might have left them as they were, its bytes are compared, by
their digest.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

UNSETTLED_NS = 2_000_000_000  # FAT notes times to two seconds, the coarsest in use
CHUNK_BYTES = 1 << 20


class FileState(BaseModel):
    """One file of a case as it was when it was read.

    Attributes:
        size: In bytes.
        changed_ns: When its content changed, by the file system.
        inode_changed_ns: When its name, owner or content changed: programs that set `changed_ns` back cannot set this.
        looked_ns: When these were noted, by this machine's clock.
        digest: BLAKE2b of its bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size: int = Field(ge=0)
    changed_ns: int
    inode_changed_ns: int
    looked_ns: int
    digest: str = Field(min_length=64, max_length=64)

    @property
    def is_settled(self) -> bool:
        """Say whether any later change must have left another time."""
        return max(self.changed_ns, self.inode_changed_ns) + UNSETTLED_NS < self.looked_ns


def note_files(paths: Sequence[Path]) -> tuple[FileState, ...] | None:
    """Note the state of files; None where one cannot be read."""
    try:
        return tuple(_note(path) for path in paths)
    except OSError:
        return None


def are_unchanged(files: Sequence[FileState], paths: Sequence[Path]) -> bool:
    """Say whether size and times alone vouch for every file; nothing is read."""
    try:
        return len(files) == len(paths) and all(
            state.is_settled and _has_stat(state, path.stat()) for state, path in zip(files, paths, strict=True)
        )
    except OSError:
        return False


def note_again(files: Sequence[FileState], paths: Sequence[Path]) -> tuple[FileState, ...] | None:
    """Note the state of files that hold the same bytes as before; None where one does not."""
    if len(files) != len(paths):
        return None
    again = []
    try:
        for state, path in zip(files, paths, strict=True):
            if state.is_settled and _has_stat(state, path.stat()):
                again.append(state)
            elif path.stat().st_size == state.size and (new := _note(path)).digest == state.digest:
                again.append(new)
            else:
                return None
    except OSError:
        return None
    return tuple(again)


def _note(path: Path) -> FileState:
    looked_ns = time.time_ns()
    stat = path.stat()  # before the bytes: a change meanwhile leaves other times than these
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return FileState(
        size=stat.st_size,
        changed_ns=stat.st_mtime_ns,
        inode_changed_ns=stat.st_ctime_ns,
        looked_ns=looked_ns,
        digest=digest.hexdigest(),
    )


def _has_stat(state: FileState, stat: os.stat_result) -> bool:
    noted = (state.size, state.changed_ns, state.inode_changed_ns)
    return noted == (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
