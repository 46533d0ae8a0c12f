"""MetaImage files whose header (.mhd) and voxels (.raw or .zraw) are two files.

Owns: `read_mhd`, `read_mhd_labels`, and which file a header may name.
Does not own: what the header says (`autoseg.io.nrrd`), the bytes of the voxels (`autoseg.io.byte_stream`).

Both files are read to their ends: a header that asks for more than its file holds is refused before memory is taken.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.errors import ScanFileError
from autoseg.io.byte_stream import ScanStream, display_name
from autoseg.io.image import Scan
from autoseg.io.nifti_header import StoredImage
from autoseg.io.nrrd import TEXT_HEADER_BYTES, parse_mha_header
from autoseg.io.voxels import replace_not_finite, round_labels, scale_values

VOXEL_ENDINGS = (".raw", ".zraw")
FILE_FIELD = b"ElementDataFile"


def read_mhd(path: Path) -> Scan:
    """Read a volume.

    Raises:
        ScanFileError: One of the files is missing or damaged, or they do not fit together.
    """
    name = display_name(path)
    stored, voxels = _read_header(path, name)
    with ScanStream(voxels) as stream:
        if stored.packing is not None:
            stream.begin_packed(stored.packing)
        num_bytes = stored.num_voxels * stored.dtype.itemsize
        buffer = stream.read(num_bytes) if num_bytes <= stream.most_bytes else bytearray()
        if len(buffer) < num_bytes:
            sizes = " x ".join(str(size) for size in reversed(stored.geometry.shape_zyx))
            raise ScanFileError(
                f"{display_name(voxels)} ends before the last of the {sizes} voxels of {stored.dtype} that {name} "
                "tells of. Copy or download it again."
            )
        extra = stream.finish()
    warnings = (*stored.warnings, *(["the file continues after its last voxel; the rest is ignored."] if extra else []))
    array = np.frombuffer(buffer, stored.dtype).reshape(1, *stored.geometry.shape_zyx)
    scaled = scale_values(array, slope=stored.slope, intercept=stored.intercept)[0]
    clean, more = replace_not_finite(scaled, name=name)
    return Scan(clean, stored.geometry, (*warnings, *more))


def read_mhd_labels(path: Path) -> Scan:
    """Read a label map of integers.

    Raises:
        ScanFileError: As `read_mhd`; or a value is no integer.
    """
    scan = read_mhd(path)
    if scan.array_zyx.dtype.kind != "f":
        return scan
    array, notes = round_labels(scan.array_zyx, name=display_name(path))
    return replace(scan, array_zyx=array, warnings=(*scan.warnings, *notes))


def _read_header(path: Path, name: str) -> tuple[StoredImage, Path]:
    """Read the header; give too the file of the voxels, which lies beside it."""
    with ScanStream(path) as stream:
        head = bytes(stream.read(TEXT_HEADER_BYTES))
    begin = head.find(FILE_FIELD)
    fields, _, last = head[:begin], *head[begin:].partition(b"=")[1:]
    word = last.split(b"\n")[0].strip().decode("utf-8", "replace")
    if begin < 0 or Path(word).name != word or not word.lower().endswith(VOXEL_ENDINGS):
        raise ScanFileError(
            f"{name} names no file of voxels beside it ({word!r:.60}); expected one that ends in .raw or .zraw. "
            "Download both files again."
        )
    stored = parse_mha_header(fields + FILE_FIELD + b" = LOCAL\n", name=name)
    return stored, path.with_name(word)
