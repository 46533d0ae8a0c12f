"""Stores one array in a file from which parts of slices can be read quickly; only this module uses blosc2.

Owns: `pack_array` and its inverse, `open_array`; the checks before blosc2 may open a file.
Does not own: which arrays a case has, and whether their bytes are those that were written (`store.py`).
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import DatasetError

CHUNK_BYTES = 4 << 20  # a chunk is the unit of the file; it has blocks, and only those asked for are unpacked
# Of a block at most, which is some rows of one slice. A window of 192 px out of 512 x 512 is read in half the time that
# whole slices take, a whole slice in the same time, and the file is no larger; blocks cut along the columns cost both.
BLOCK_BYTES = 128 << 10
# The header of blosc2's frame (its README_CFRAME_FORMAT): 87 bytes, then what is called its metalayers: an array of
# three in msgpack, the size of the index, and a map that begins with the number of entries and the first one's name.
FRAME_MAGIC, FRAME_MAGIC_AT = b"\xa8b2frame\0", 1
METALAYERS_AT = 87
ONE_LAYER, ONE_LAYER_AT = b"\xde\x00\x01\xa4b2nd", METALAYERS_AT + 4


class StoredArray:
    """An array on disk, of which only the requested parts are read and decompressed.

    Its file is opened for each read, which costs 0.2 ms: ten thousand cases have more files than a process may keep
    open.
    """

    def __init__(self, path: Path, *, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Use a file that `open_array` has checked."""
        self._path = path
        self.shape = shape
        self.dtype = dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read a part.

        Raises:
            DatasetError: The file is damaged there.
        """
        try:
            part: np.ndarray = _open(self._path)[key]
        except (RuntimeError, ValueError, OSError) as error:  # what blosc2 makes of damage
            raise DatasetError(f"{self._path} is damaged: it cannot be unpacked. {_remedy(self._path)}") from error
        return part


def pack_array(array: np.ndarray) -> bytes:
    """Compress one array; a block is some rows of one slice of one channel.

    It is compressed in memory and written by Python, which notices a full disk. Small arrays use LZ4, which is fast;
    large ones use Zstandard, which takes three times as long and a third less space.

    Args:
        array: (.., slices, rows, columns).
    """
    import blosc2

    *leading, slices, rows, columns = array.shape
    slices_a_chunk = max(1, min(slices, CHUNK_BYTES // max(1, array.nbytes // slices)))
    blocks_a_slice = min(rows, math.ceil(rows * columns * array.itemsize / BLOCK_BYTES))
    rows_a_block = math.ceil(rows / max(1, blocks_a_slice))
    parameters = blosc2.CParams(
        codec=blosc2.Codec.LZ4 if array.nbytes <= CHUNK_BYTES else blosc2.Codec.ZSTD,
        clevel=1,
        filters=[blosc2.Filter.SHUFFLE],
        typesize=array.itemsize,
        nthreads=1,
    )
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        cparams=parameters,
        dparams=blosc2.DParams(nthreads=1),
        chunks=(*leading, slices_a_chunk, rows, columns),
        blocks=(*(1 for _ in leading), 1, rows_a_block, columns),
        contiguous=True,
    )
    frame: bytes = packed.to_cframe()
    return frame


def open_array(path: Path, *, shape: Sequence[int], dtypes: Sequence[str]) -> StoredArray:
    """Open the file of an array that `pack_array` compressed; nothing is decompressed yet.

    Args:
        path: The file.
        shape: The shape that the array must have.
        dtypes: The names of the types that it may have.

    Raises:
        DatasetError: The file is of another kind, or damaged.
    """
    import blosc2

    array = None
    with suppress(RuntimeError, ValueError, OSError):
        array = _open(path)
    if not isinstance(array, blosc2.NDArray) or array.shape != tuple(shape) or array.dtype.name not in dtypes:
        raise DatasetError(f"{path} is not an array of autoseg, or is damaged. {_remedy(path)}")
    return StoredArray(path, shape=array.shape, dtype=array.dtype)


def _open(path: Path) -> Any:
    """Open a file with blosc2, which closes it when the result is deleted.

    Raises:
        ValueError, RuntimeError: The file may not be opened, or is damaged.
        OSError: The file cannot be read.
    """
    import blosc2  # here, since it takes 0.4 s to load and a store that is current needs none of it

    if not holds_plain_array(path):
        raise ValueError("not a plain array")
    with _name_in_utf8(path) as name:
        return blosc2.open(name, mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))


def holds_plain_array(path: Path) -> bool:
    """Return whether a file of blosc2 contains an array and nothing else.

    Such a file may instead contain an expression, the source code of a function, or a network address, which older
    versions of blosc2 run or request as soon as they open it.
    """
    with path.open("rb") as file:
        head = file.read(ONE_LAYER_AT + len(ONE_LAYER))
    return head[FRAME_MAGIC_AT:].startswith(FRAME_MAGIC) and head[ONE_LAYER_AT:] == ONE_LAYER


@contextmanager
def _name_in_utf8(path: Path) -> Iterator[str]:
    """Return a name that blosc2 can open: the path, or that of an open file if the path is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # Linux, where names are bytes
        handle = os.open(path, os.O_RDONLY)
        try:
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
    else:
        yield str(path)


def _remedy(path: Path) -> str:
    return f"Delete the folder {path.parent.name} and run autoseg_plan again: it preprocesses this case again."
