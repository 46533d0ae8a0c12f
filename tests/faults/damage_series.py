"""A DICOM series, and what chance makes of it; written by SimpleITK.

Owns: `make_slices`, `damage_slices`.
Does not own: damage to bytes of any kind (`damage.py`).
"""

from pathlib import Path

import damage
import numpy as np
import SimpleITK as sitk  # noqa: N813

SLICE_YX = (24, 20)
SERIES_TAGS = {"0008|0060": "CT", "0020|000e": "1.2.3", "0020|000d": "1.2", "0020|0037": "1\\0\\0\\0\\1\\0"}


def make_slices(folder: Path) -> list[bytes]:
    """Give the four files of a DICOM series."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    rng = np.random.default_rng(0)
    for number in range(4):
        image = sitk.GetImageFromArray(rng.integers(-500, 500, (1, *SLICE_YX)).astype(np.int16))
        place = {"0008|0018": f"1.2.3.{number + 1}", "0020|0013": str(number), "0020|0032": f"0\\0\\{3 * number}"}
        for tag, value in {**SERIES_TAGS, **place}.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number}.dcm"))
        writer.Execute(image)
    return [(folder / f"{number}.dcm").read_bytes() for number in range(4)]


def damage_slices(number: int, slices: list[bytes]) -> list[bytes]:
    """Damage one slice of a series, or all of them alike, from the number of the case."""
    rng = np.random.default_rng([len("series"), number])
    chosen = range(len(slices)) if rng.integers(0, 3) == 0 else [int(rng.integers(0, len(slices)))]
    seed, in_header = int(rng.integers(0, 2**31)), bool(rng.integers(0, 2))
    result = list(slices)
    for index in chosen:
        same = np.random.default_rng(seed)
        header_bytes = len(slices[index]) - 2 * SLICE_YX[0] * SLICE_YX[1]
        damaged = damage.random_bytes_changed(slices[index], same, length=header_bytes)
        result[index] = damaged if in_header else damage.random_stream_damage(slices[index], same)
    return result
