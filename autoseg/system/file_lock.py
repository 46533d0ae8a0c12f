"""Locks a folder, so that one run at a time works in it.

Owns: `hold_folder`, the file `.lock` in a folder that a command writes to, and the message if another run has it.
Does not own: which folders a command locks (`planning/`, `training/` and `pipelines/predict.py`).

Every command locks the folder that it writes to. `autoseg_train` locks its fold exclusively and shares the lock of the
run folder with the other folds, so that no plan replaces the cases that they read.

The operating system holds the lock and releases it when the process ends, even after `kill -9`. The file remains
without meaning; its content, the last owner's process and host, is only for the message.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autoseg.errors import LockedError, UsageError
from autoseg.system.atomic_files import explain_write_error, parse_json

if sys.platform == "win32":
    import filelock
else:
    import fcntl

LOCK_NAME = ".lock"
SECONDS_TO_WAIT = 0.5  # a run that was killed is not gone at once: the system ends its worker processes first
SECONDS_BETWEEN_TRIES = 0.05
MOST_NOTE_BYTES = 1000


@contextmanager
def hold_folder(
    folder: Path, *, command: str, remedy: str, is_shared: bool = False, name: str = LOCK_NAME
) -> Iterator[None]:
    """Hold the lock of a folder inside the block.

    Args:
        folder: An existing folder.
        command: The name of this command, for the message that another run shows.
        remedy: What to do if another run has the lock.
        is_shared: Whether other holders that share the lock are allowed.
        name: The name of the lock file.

    Raises:
        LockedError: Another run has the lock.
        UsageError: The lock file cannot be written, or its file system has no locks.
    """
    path = Path(folder) / name
    try:
        lock = _take(path, is_shared=is_shared)
    except OSError as error:
        raise UsageError(explain_write_error(error, path)) from error
    if lock is None:
        raise LockedError(f"{folder}: {_owner(path)} works on it. {remedy}")
    with suppress(OSError):  # a full disk: the lock holds without its note
        path.write_text(json.dumps(_note(command)), encoding="utf-8")
    try:
        yield
    finally:
        _give_up(lock)


def _take(path: Path, *, is_shared: bool) -> Any:
    """Return the lock for `_give_up`, or None where another run has it.

    Raises:
        UsageError: The file system has no locks.
        OSError: The file cannot be opened.
    """
    if sys.platform == "win32":  # which has no shared locks that filelock could take: one fold at a time
        lock = filelock.FileLock(path)
        try:
            return lock.acquire(timeout=SECONDS_TO_WAIT).lock
        except filelock.Timeout:
            return None
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    deadline = time.monotonic() + SECONDS_TO_WAIT
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                return None
            time.sleep(SECONDS_BETWEEN_TRIES)
        except OSError as error:
            os.close(handle)
            raise UsageError(
                f"{path} cannot be locked: {error.strerror}. The file system has no locks; choose a folder on another."
            ) from error


def _give_up(lock: Any) -> None:
    if sys.platform == "win32":
        lock.release()
        return
    fcntl.flock(lock, fcntl.LOCK_UN)  # closing alone would leave it to a worker process that still has it open
    os.close(lock)


def _note(command: str) -> dict[str, Any]:
    return {"command": command, "process": os.getpid(), "host": platform.node()}


def _owner(path: Path) -> str:
    """Name the holder of the lock as far as the file shows; if several share it, the last one may have ended."""
    try:
        with path.open(encoding="utf-8") as file:
            note = parse_json(file.read(MOST_NOTE_BYTES))
        command, process, host = str(note["command"]), int(note["process"]), str(note["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
    if host == platform.node() and not _is_alive(process):
        return "another run"
    return f"another {command} (process {process} on {host})"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's
    return True
