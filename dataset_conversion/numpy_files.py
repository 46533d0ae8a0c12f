"""Arrays that numpy wrote (.npy, .npz), from anybody.

Owns: `read_npy`, `read_npz`.
Does not own: what the arrays mean.

No object is unpickled, and no memory is taken for what a header claims before the file is known to hold it.
"""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from autoseg.errors import ScanFileError
from autoseg.io.byte_stream import display_name, file_fault

NUMBERS = "biuf"  # kinds of dtype
DAMAGE = (  # what numpy, zipfile and zlib raise over it; a header is a Python expression, which numpy takes apart
    *(EOFError, KeyError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError),
    *(SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error),
)


def read_npy(path: Path) -> np.ndarray:
    """Read an array of numbers.

    Raises:
        ScanFileError: The file is damaged, or holds something else.
    """
    with _readable(path), path.open("rb") as file:
        return _read_array(file, path.stat().st_size)


def read_npz(path: Path, names: Sequence[str], *, most_bytes: int) -> dict[str, np.ndarray]:
    """Read arrays of numbers from an archive.

    Args:
        path: The archive.
        names: Of the arrays; others in the archive are not looked at.
        most_bytes: That they may have together, unpacked.

    Raises:
        ScanFileError: The file is damaged, lacks an array, or holds more.
    """
    with _readable(path), zipfile.ZipFile(path) as archive:
        members = [archive.getinfo(f"{name}.npy") for name in names]
        total = sum(member.file_size for member in members)
        if total > most_bytes:
            raise ScanFileError(
                f"{display_name(path)} unpacks to {total} bytes; expected at most {most_bytes}. Download it again."
            )
        arrays = {}
        for name, member in zip(names, members, strict=True):
            with archive.open(member) as stream:
                arrays[name] = _read_array(cast(BinaryIO, stream), member.file_size)
        return arrays


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into one error."""
    fault = file_fault(path)
    if fault:
        raise ScanFileError(fault)
    try:
        yield
    except DAMAGE as error:
        raise ScanFileError(
            f"{display_name(path)} cannot be read as numpy's ({type(error).__name__}). Copy or download it again."
        ) from error


def _read_array(stream: BinaryIO, num_bytes: int) -> np.ndarray:
    """Read one array from a stream that has so many bytes.

    Raises:
        ValueError: It holds no numbers, or fewer than its header says.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in NUMBERS or min(shape, default=0) < 0 or size > num_bytes:
        raise ValueError("no array of numbers, or one that claims more than there is")
    content = stream.read(size)
    if len(content) < size:
        raise ValueError("cut off")
    array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")
