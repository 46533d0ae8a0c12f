"""Label maps that are a PNG picture a slice.

Owns: `read_pngs`, and the order of files by the numbers in their names.
Does not own: what the grey values mean (the conversions).

A picture's size is looked at before it is unpacked, and must be the scan's.
"""

import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from autoseg.errors import ScanFileError
from autoseg.io.byte_stream import display_name, file_fault


def by_numbers(path: Path) -> tuple[tuple[int, ...], str]:
    """Return a key that sorts "a_9" before "a_10"."""
    return tuple(map(int, re.findall(r"\d{1,9}", path.name))), path.name


def read_pngs(paths: Sequence[Path], *, shape_yx: tuple[int, int]) -> np.ndarray:
    """Read grey pictures of one size: uint8, (pictures, y, x); black and white ones give 0 and 255.

    Raises:
        ScanFileError: One cannot be read, or is of another size.
    """
    pictures = np.zeros((len(paths), *shape_yx), np.uint8)
    for index, path in enumerate(paths):
        pictures[index] = _read_png(path, shape_yx)
    return pictures


def _read_png(path: Path, shape_yx: tuple[int, int]) -> np.ndarray:
    name = display_name(path)
    fault = file_fault(path)
    if fault:
        raise ScanFileError(fault)
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.size != shape_yx[::-1]:
                size, expected = picture.size, shape_yx[::-1]
                raise ScanFileError(
                    f"{name} has {size[0]} x {size[1]} pixels; expected {expected[0]} x {expected[1]} as the slices. "
                    "Download it again."
                )
            return np.asarray(picture.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, struct.error) as error:
        raise ScanFileError(
            f"{name} cannot be read as a PNG picture ({type(error).__name__}). Download it again."
        ) from error
