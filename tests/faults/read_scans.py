"""What comes of a file that may be damaged: every way of reading it, with its memory and warnings watched.

Owns: `read_in_every_way`, `memory_limit`.
Does not own: the damage (`damage.py`).
"""

import tracemalloc
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.errors import AutosegError
from autoseg.io.geometry import canonical_axis_map, reorient
from autoseg.io.image import count_volumes, read_all_volumes, read_header, read_label_names, read_labels, read_scan
from autoseg.io.nifti_header import encode_header, parse_header

# A byte of a file may be a voxel, and one that is scaled takes four bytes in memory; twice that is what reading may
# take. What it takes whatever the size, 2.1 MiB as measured: the chunk that is read, what is left of it, the chunk that
# is unpacked, of 1 MiB each and seldom full together.
BYTES_IN_MEMORY_A_BYTE = 4
ALLOWANCE_BYTES = 4 << 20


@dataclass(frozen=True)
class Reading:
    """What came of a file.

    Attributes:
        result: "scan", or the class of the error of `read_scan`.
        message: Of the error.
        peak_bytes: The most that Python and numpy held at a time.
    """

    result: str
    message: str
    peak_bytes: int


def memory_limit(num_bytes: int) -> int:
    """Give what may be held at most, for a file of so many bytes when it is whole and unpacked."""
    return 2 * BYTES_IN_MEMORY_A_BYTE * num_bytes + ALLOWANCE_BYTES


def read_in_every_way(path: Path) -> Reading:
    """Read grid, volumes, labels and names of a file; a scan must also be fit to be worked on.

    Raises:
        Exception: Anything but an error of autoseg, also for a warning; `AssertionError` for a scan that is no good.
    """
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result, message = _read(path)
            for read in (read_header, count_volumes, read_label_names, read_labels, read_all_volumes):
                try:
                    read(path)
                except AutosegError as error:
                    assert str(error).isprintable()
        return Reading(result, message, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def _read(path: Path) -> tuple[str, str]:
    try:
        scan = read_scan(path)
    except AutosegError as error:
        assert path.name in str(error) and str(error).isprintable() and len(str(error)) < 1000
        return type(error).__name__, str(error)
    assert np.isfinite(scan.array_zyx).all() and scan.array_zyx.shape == scan.geometry.shape_zyx
    assert reorient(scan.geometry, canonical_axis_map(scan.geometry)).spacing_zyx_mm
    if scan.geometry.header:  # an output repeats the grid
        again = parse_header(encode_header(scan.geometry, dtype=np.dtype(np.uint8)), name="the output").geometry
        assert again == scan.geometry
    return "scan", ""
