"""Saves and loads training states: the newest, `resume.pt`, and the one before it, `resume_previous.pt`.

Owns: the seal that reveals damage, the choice between the two files, and sending rank 0's state to all ranks.
Does not own: what a state consists of (`state.py`), when one is saved (`checkpoint_policy.py`).

A kill at any moment leaves a whole state: the new file is flushed under a temporary name, then the old one is renamed
to `resume_previous.pt`, and then the new one takes its name. The seal is a SHA-256 of the whole file in the comment at
the end of torch's zip; torch itself does not notice a flipped byte between its tensors.
"""

import hashlib
import io
import logging
import os
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from autoseg.config.plans import Plans
from autoseg.distributed.ranks import Ranks
from autoseg.errors import CheckpointError, OutputError
from autoseg.network.weights.load_errors import explain_load_failure
from autoseg.system.atomic_files import atomic_path, explain_write_error
from autoseg.system.out_of_memory import is_out_of_memory
from autoseg.training.state import TrainState, fill_state, pack_state

log = logging.getLogger("autoseg")

PREVIOUS = "_previous"
DAMAGED = "_damaged"
SEAL = b"sha256:"
SEAL_BYTES = len(SEAL) + 64
NO_COMMENT = b"\0\0"  # ends a zip: the length of its comment
CHUNK_BYTES = 1 << 20


class DamagedStateError(CheckpointError):
    """A state is missing, or is not what was written; another plan's or version's is no damage."""


def previous_path(path: Path) -> Path:
    """Return where the state before that of `path` is kept."""
    return path.with_name(path.stem + PREVIOUS + path.suffix)


def has_state(path: Path) -> bool:
    """Return whether a run can go on: from this state or the one before, damaged or not."""
    return os.path.lexists(path) or os.path.lexists(previous_path(path))


def save_state(state: TrainState, plans: Plans, path: Path, *, keeps_previous: bool = True) -> None:
    """Write a state to `resume.pt`; the one that was there becomes the previous one, unless `keeps_previous` is False.

    Raises:
        OutputError: The disk is full or cannot be written; what was there stays as it was.
    """
    try:
        with atomic_path(path) as temporary:
            _write_sealed(pack_state(state, plans), temporary)
            if keeps_previous and path.exists():
                path.replace(previous_path(path))
    except OSError as error:
        raise OutputError(explain_write_error(error, path)) from error
    state.saved_step = state.step


def load_state(state: TrainState, plans: Plans, path: Path) -> None:
    """Fill a new state with the newest saved one, or the one before it where that is missing or damaged.

    Raises:
        CheckpointError: Both are damaged; or the newest whole one was written under another plan or version.
    """
    content, source, damage = _read_either(path, previous_path(path))
    fill_state(state, plans, content, source=source)
    if damage is not None:
        log.warning("%s Going on from the state before it, %s.", damage, source)
        _put_aside(path)
    log.info("continuing at step %d, after %.0f s of training", state.step, state.seconds)


def load_earlier(state: TrainState, plans: Plans, path: Path) -> Path:
    """Fill a state with the older of the two saved ones, or the only whole one, and return its path.

    For a run that has diverged: the newest state may be affected already.

    Raises:
        CheckpointError: Neither can be used.
    """
    content, source, _damage = _read_either(previous_path(path), path)
    fill_state(state, plans, content, source=source)
    return source


def _read_either(path: Path, other: Path) -> tuple[dict[str, Any], Path, DamagedStateError | None]:
    """Read the first of two states that is whole; return it with its path, and the damage of the one before."""
    try:
        return _read_sealed(path), path, None
    except DamagedStateError as damage:
        try:
            return _read_sealed(other), other, damage
        except DamagedStateError as second:
            raise CheckpointError(f"{damage} {second} {_start_again(path)}") from damage


def broadcast_state(state: TrainState, plans: Plans, ranks: Ranks) -> None:
    """Fill the states of all ranks with that of rank 0, which alone reads and writes files."""
    if ranks.world_size == 1:
        return
    buffer = io.BytesIO()
    if ranks.is_main:
        torch.save(pack_state(state, plans), buffer)
    content = ranks.broadcast(buffer.getvalue())
    if not ranks.is_main:
        packed = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        fill_state(state, plans, packed, source=Path("the state of rank 0"))


def _start_again(path: Path) -> str:
    return f"Delete the folder {path.parent} to start this fold again."


def _put_aside(path: Path) -> None:
    """Rename a damaged state, so that the next save does not keep it as the previous state."""
    if os.path.lexists(path):
        path.replace(path.with_name(path.stem + DAMAGED + path.suffix))


class _SealingFile:
    """Forwards what torch writes, and updates its digest."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        _write_all(self._file, data)
        self.digest.update(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        self._file.flush()


def _write_sealed(content: dict[str, Any], path: Path) -> None:
    """Write with torch, then the seal into the zip's comment; flushed to the disk.

    Raises:
        OSError: The disk is full.
    """
    with path.open("wb", buffering=0) as file:
        sealing = _SealingFile(file)
        try:
            torch.save(content, sealing)  # type: ignore[arg-type]
        except RuntimeError as error:  # "unexpected pos", in place of a full disk, and of Ctrl-C too
            if error.__context__ is not None:
                raise error.__context__ from None
            raise
        file.seek(-len(NO_COMMENT), os.SEEK_END)
        _write_all(file, SEAL_BYTES.to_bytes(2, "little") + SEAL + sealing.digest.hexdigest().encode("ascii"))
        os.fsync(file.fileno())


def _read_sealed(path: Path) -> dict[str, Any]:
    """Read what `_write_sealed` wrote; no code in it is executed, and every byte is checked against the seal.

    Raises:
        DamagedStateError: It is missing, cannot be read, or is not what was written.
        CheckpointError: It is whole, but not a training state.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DamagedStateError(f"{path} is not a regular file.")
    try:
        _check_seal(path)
        content = torch.load(path, map_location="cpu", weights_only=True)  # a GPU may have no room for two
    except FileNotFoundError:
        raise DamagedStateError(f"{path} is missing.") from None
    except OSError as error:
        raise DamagedStateError(f"{path} cannot be read: {error.strerror or error}.") from error
    except DamagedStateError:
        raise
    except Exception as error:  # a seal around something else: torch refuses it with one of a dozen types
        if is_out_of_memory(error):
            raise
        raise DamagedStateError(f"{path} is damaged: {explain_load_failure(error)}.") from error
    if not isinstance(content, dict) or "plans" not in content:
        raise CheckpointError(f"{path} is not a training state. {_start_again(path)}")
    return content


def _check_seal(path: Path) -> None:
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - SEAL_BYTES - len(NO_COMMENT)
        if left <= 0:
            raise DamagedStateError(f"{path} is damaged: it has {max(0, left + SEAL_BYTES + 2)} bytes, too few.")
        digest = hashlib.sha256()
        while left and (chunk := file.read(min(left, CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
        digest.update(NO_COMMENT)
        seal = SEAL_BYTES.to_bytes(2, "little") + SEAL + digest.hexdigest().encode("ascii")
        if file.read() != seal:
            raise DamagedStateError(f"{path} is damaged: its content does not have the SHA-256 that stands at its end.")


def _write_all(file: FileIO, data: bytes) -> None:
    """Write without a buffer: a file may take a part of it, and only the next attempt says why."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
