"""Verifies the structure of a DICOM file: every element must end inside the file, and the pixels must fit in.

Owns: `check_dicom_file`. Only tags, lengths, and the numbers of rows, columns and bits are read.
Does not own: series and voxels (`dicom.py`).

SimpleITK allocates as much memory as a length in the file says: one flipped byte in a slice of 2 KB made it 9 GB.
"""

import math
import mmap
from pathlib import Path

from autoseg.errors import ScanFileError
from autoseg.io.byte_stream import display_name

FIRST_ELEMENT = 132  # after the preamble and the letters DICM
UNDEFINED = 0xFFFFFFFF  # a length that only a delimiter ends
MOST_DEPTH = 64  # of sequences and items in each other
MOST_PICTURE_BYTES = 256 << 20  # of a compressed slice; a mammogram has 40 MB
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
SYNTAX, PIXELS = 0x00020010, 0x7FE00010
SAMPLES, ROWS, COLUMNS, BITS = 0x00280002, 0x00280010, 0x00280011, 0x00280100
SHORT_KINDS = set(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_KINDS = set(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # their length takes four bytes
IMPLICIT, BIG_ENDIAN, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".2", ".1.99"))


def check_dicom_file(path: Path, *, has_picture: bool = True) -> None:
    """Refuse a file whose elements or pixels claim more bytes than it contains.

    Args:
        path: A DICOM file.
        has_picture: Whether the file must contain pixels.

    Raises:
        ScanFileError: The file is damaged or cannot be read.
    """
    name = display_name(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            walk = _walk(data)
            if has_picture:
                _check_picture(walk)
    except OSError as error:
        raise ScanFileError(f"{name} cannot be read: {error.strerror or error}. Check the disk.") from error
    except ValueError as error:
        raise ScanFileError(f"{name} is damaged: {error}. Copy it again, or export the series again.") from None


def _walk(data: mmap.mmap) -> "_Walk":
    """Go through the header, and then through the data set in its own byte order.

    Raises:
        ValueError: An element does not fit; the message says which.
    """
    meta = _Walk(data, is_explicit=True)
    start = meta.run(FIRST_ELEMENT, len(data), only_group=0x0002)
    if SYNTAX not in meta.found:
        raise ValueError("it does not say how its elements are written")
    where, length = meta.found[SYNTAX]
    syntax = data[where : where + length].decode("ascii", "replace").strip("\0 ")
    if syntax == DEFLATED:
        raise ValueError("it is compressed as a whole, which is not supported")
    walk = _Walk(data, is_explicit=syntax != IMPLICIT, order="big" if syntax == BIG_ENDIAN else "little")
    walk.run(start, len(data))
    return walk


def _check_picture(walk: "_Walk") -> None:
    numbers = {tag: walk.number(tag) for tag in (ROWS, COLUMNS, BITS)}
    if PIXELS not in walk.found or 0 in numbers.values():
        raise ValueError("it holds no picture")
    claimed = math.prod(numbers.values()) * max(1, walk.number(SAMPLES)) // 8
    held = walk.found[PIXELS][1]
    if claimed > (MOST_PICTURE_BYTES if held == UNDEFINED else held):
        size = f"{numbers[COLUMNS]} x {numbers[ROWS]} pixels of {numbers[BITS]} bits"
        raise ValueError(f"{size} do not fit into the picture that it holds")


class _Walk:
    """One pass through the elements of a file.

    Attributes:
        found: The start and length of each value outside of sequences, by tag.
    """

    def __init__(self, data: mmap.mmap, *, is_explicit: bool, order: str = "little") -> None:
        self.data, self.is_explicit, self.order = data, is_explicit, order
        self.found: dict[int, tuple[int, int]] = {}

    def run(
        self, start: int, stop: int, *, only_group: int | None = None, depth: int = 0, holds_pixels: bool = False
    ) -> int:
        """Go through the elements, and into sequences.

        Args:
            start: The position of the first element.
            stop: The position at which the last element must have ended.
            only_group: Whether to end before the next group begins.
            depth: The number of sequences and items around these elements.
            holds_pixels: Whether items contain fragments of compressed pixels instead of elements.

        Returns:
            The position after the last element, or after the delimiter that ended them.

        Raises:
            ValueError: An element claims more bytes than there are, or delimiters do not match.
        """
        if depth > MOST_DEPTH:
            raise ValueError(f"its sequences are nested more than {MOST_DEPTH} deep")
        place = start
        while place + 8 <= stop:
            tag, kind, length, begin = self._element(place)
            if only_group is not None and tag >> 16 != only_group:
                return place
            if tag in (ITEM_END, SEQUENCE_END) and depth:
                return begin
            is_open = length == UNDEFINED
            if not is_open and length > stop - begin:
                what = f"its element ({tag >> 16:04x},{tag & 0xFFFF:04x}) claims {length} bytes"
                raise ValueError(f"{what} where {max(0, stop - begin)} are left")
            if depth == 0:
                self.found.setdefault(tag, (begin, length))
            place = begin + length
            if is_open or kind == b"SQ" or (tag == ITEM and not holds_pixels):
                last = stop if is_open else place
                end = self.run(begin, last, depth=depth + 1, holds_pixels=tag == PIXELS)
                place = end if is_open else place
        return place

    def number(self, tag: int) -> int:
        """Return the value of an element of two bytes; 0 where there is none."""
        begin, length = self.found.get(tag, (0, 0))
        return int.from_bytes(self.data[begin : begin + 2], self.order) if length >= 2 else 0  # type: ignore[arg-type]

    def _element(self, place: int) -> tuple[int, bytes, int, int]:
        """Read the tag, value representation (b"" where none is given), length, and start of the value."""
        group, element = (self._integer(place + shift, 2) for shift in (0, 2))
        kind = self.data[place + 4 : place + 6]
        tag = group << 16 | element
        if group == ITEM >> 16 or not (self.is_explicit and kind.isalpha() and kind.isupper()):
            return tag, b"", self._integer(place + 4, 4), place + 8  # explicit files hold implicit sequences too
        if kind in LONG_KINDS:
            return tag, kind, self._integer(place + 8, 4), place + 12
        if kind in SHORT_KINDS:
            return tag, kind, self._integer(place + 6, 2), place + 8
        raise ValueError(f"its element ({group:04x},{element:04x}) is of the unknown kind {kind.decode()}")

    def _integer(self, place: int, size: int) -> int:
        return int.from_bytes(self.data[place : place + size], self.order)  # type: ignore[arg-type]
