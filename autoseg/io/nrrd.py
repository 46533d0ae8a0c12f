"""Reads the headers of NRRD and MetaImage files, both of which are lines of text before the voxels.

Owns: `parse_nrrd_header` and `parse_mha_header`, which return a `StoredImage` as `nifti_header.py` does for NIfTI.
Does not own: files and voxels (`image.py`).

Supported are single files with header and voxels, raw or compressed by zlib, with one volume of gray values. MetaImage
uses LPS, an NRRD file names its space; the result is in RAS.
"""

import math
from collections.abc import Mapping

import numpy as np

from autoseg.errors import GeometryError, ScanFileError
from autoseg.io.geometry import ImageGeometry
from autoseg.io.grid_checks import check_extent, check_shear
from autoseg.io.nifti_header import MAX_IMAGE_BYTES, StoredImage

TEXT_HEADER_BYTES = 1 << 16  # more than any header holds
ZLIB, GZIP = 15, 31  # what zlib calls wbits
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
NRRD_SPACES = {
    "left-posterior-superior": LPS_TO_RAS,
    "lps": LPS_TO_RAS,
    "right-anterior-superior": np.eye(3),
    "ras": np.eye(3),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0]),
}
NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
UNITS_MM = {"mm": 1.0, "millimeter": 1.0, "um": 1e-3, "\u00b5m": 1e-3, "microns": 1e-3, "cm": 10.0, "m": 1000.0}
NRRD_PACKINGS = {"raw": None, "gzip": GZIP, "gz": GZIP}
MHA_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"},
    **{"MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
MOST_EXTRA_AXES = 7  # of one entry each; MetaImage knows ten axes in all
_Fields = Mapping[str, str]


def parse_nrrd_header(head: bytes, *, name: str) -> StoredImage:
    """Read the header of an NRRD file.

    Args:
        head: The first 64 KiB, or the whole file where that is shorter.
        name: The name of the file for messages.

    Raises:
        ScanFileError: The header is impossible, or the image is not one volume of gray values in this file.
    """
    ends = [(head.find(empty), empty) for empty in (b"\n\n", b"\r\n\r\n") if empty in head]
    text, found, _ = head.partition(min(ends)[1]) if ends else (head, b"", b"")  # the voxels may hold the other one
    if not found:
        raise ScanFileError(f"{name} ends inside its NRRD header. Copy or download it again.")
    fields: dict[str, str] = {}
    for line in text.decode("utf-8", "replace").splitlines()[1:]:
        key, separator, value = line.partition(": ")
        if not separator or line.startswith("#") or ":=" in key:  # a comment, or a value of another program's
            continue
        if fields.setdefault(key.strip().lower(), value.strip()) != value.strip():
            raise ScanFileError(f"{name}: a field of its NRRD header occurs twice. Save the file again.")
    if "data file" in fields or "datafile" in fields:
        raise ScanFileError(f"{name}: its voxels lie in another file. Save header and voxels as one .nrrd file.")
    for key in ("line skip", "byte skip", "lineskip", "byteskip"):
        if fields.get(key, "0") != "0":
            raise ScanFileError(f"{name}: {key} is {fields[key]!r:.20}; expected none. Save the file again.")
    encoding = _field(fields, "encoding", name).lower()
    if encoding not in NRRD_PACKINGS:
        raise ScanFileError(f"{name}: encoding is {encoding!r:.40}; expected raw or gzip. Save it with one of them.")
    sizes = _numbers(fields, "sizes", name)
    vectors = _nrrd_vectors(fields, sizes, name)
    if fields.get("dimension", str(len(sizes))) != str(len(sizes)):
        raise ScanFileError(f"{name}: its dimension is not the number of its sizes, {len(sizes)}. Save the file again.")
    scalar = [axis for axis, vector in enumerate(vectors) if vector is None]
    if any(sizes[axis] != 1 for axis in scalar) or len(vectors) - len(scalar) not in (2, 3):
        raise ScanFileError(
            f"{name}: its sizes are {fields['sizes']!r:.60}; expected one volume of grey values. Save each volume, or "
            "each component of colors, as a file of its own."
        )
    kept = [axis for axis in range(len(vectors)) if axis not in scalar]
    turn, warnings = _nrrd_space(fields, name)
    turn = turn * _nrrd_unit_mm(fields, name)
    origin = np.zeros(3)
    if "space origin" in fields:
        origin = _vector(fields["space origin"], name, is_plane=_is_plane(fields))
    return _stored(
        name,
        sizes=[sizes[axis] for axis in kept],
        steps=[turn @ vector for vector in vectors if vector is not None],
        origin=turn @ origin,
        dtype=_dtype(
            NRRD_TYPES, _field(fields, "type", name).lower(), name, big=fields.get("endian", "").lower() == "big"
        ),
        packing=NRRD_PACKINGS[encoding],
        offset=len(text) + len(found),
        warnings=warnings,
    )


def parse_mha_header(head: bytes, *, name: str) -> StoredImage:
    """Read the header of a MetaImage file.

    Args:
        head: The first 64 KiB, or the whole file where that is shorter.
        name: The name of the file for messages.

    Raises:
        ScanFileError: As `parse_nrrd_header`.
    """
    fields: dict[str, str] = {}
    offset = 0
    while "ElementDataFile" not in fields:
        end = head.find(b"\n", offset)
        if end < 0:
            raise ScanFileError(f"{name} ends inside its MetaImage header. Copy or download it again.")
        key, _, value = head[offset:end].decode("utf-8", "replace").partition("=")
        if fields.setdefault(key.strip(), value.strip()) != value.strip():
            raise ScanFileError(f"{name}: a field of its MetaImage header occurs twice. Save the file again.")
        offset = end + 1
    if fields["ElementDataFile"] not in ("LOCAL", "Local", "local"):
        raise ScanFileError(f"{name}: its voxels lie in another file. Save header and voxels as one .mha file.")
    if fields.get("HeaderSize", "0") != "0":
        raise ScanFileError(f"{name}: its voxels do not begin after the header (HeaderSize). Save the file again.")
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise ScanFileError(f"{name} holds several values in each voxel; expected grey values. Convert it.")
    if not _is_true(fields, "BinaryData", default="True"):
        raise ScanFileError(f"{name} stores its voxels as text. Save it with binary data.")
    sizes = _numbers(fields, "DimSize", name)
    sizes, extra = sizes[:3], sizes[3:]
    if len(sizes) < 2 or any(size != 1 for size in extra) or len(extra) > MOST_EXTRA_AXES:
        raise ScanFileError(
            f"{name}: its DimSize is {fields['DimSize']!r:.60}; expected one volume. Save each by itself."
        )
    count = len(sizes) + len(extra)
    if fields.get("NDims", str(count)) != str(count):
        raise ScanFileError(f"{name}: its NDims is not the number of its sizes, {count}. Save the file again.")
    spacing = _floats(fields, ("ElementSpacing", "ElementSize"), name, default=[1.0] * count)
    matrix = _floats(
        fields, ("TransformMatrix", "Orientation", "Rotation"), name, default=np.eye(count).ravel().tolist()
    )
    origin = _floats(fields, ("Offset", "Position", "Origin"), name, default=[0.0] * count)
    _refuse_negative(spacing, name)
    if (len(spacing), len(matrix), len(origin)) != (count, count**2, count):
        raise ScanFileError(f"{name}: spacing, matrix or offset do not have {count} axes. Repair the header.")
    space = min(3, count)
    axes = np.reshape(matrix, (count, count))[: len(sizes), :space]  # a row an axis of the array
    steps = [LPS_TO_RAS[:space, :space] @ axis * step for axis, step in zip(axes, spacing, strict=False)]
    is_big = any(_is_true(fields, key) for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    return _stored(
        name,
        sizes=sizes,
        steps=[np.append(step, [0.0] * (3 - space)) for step in steps],
        origin=LPS_TO_RAS @ np.append(origin[:space], [0.0] * (3 - space)),
        dtype=_dtype(MHA_TYPES, _field(fields, "ElementType", name), name, big=is_big),
        packing=ZLIB if _is_true(fields, "CompressedData") else None,
        offset=offset,
        warnings=[],
    )


def _stored(
    name: str,
    *,
    sizes: list[int],
    steps: list[np.ndarray],
    origin: np.ndarray,
    dtype: np.dtype,
    packing: int | None,
    offset: int,
    warnings: list[str],
) -> StoredImage:
    """Make the `StoredImage` that both formats describe; axes x, y, z, millimeters in RAS."""
    if len(sizes) == 2:
        normal = np.cross(steps[0], steps[1])
        sizes, steps = [*sizes, 1], [*steps, normal / (np.linalg.norm(normal) or 1.0)]
        warnings = [*warnings, "the only slice has no thickness; 1 is taken."]
    if min(sizes) < 1 or math.prod(sizes) * dtype.itemsize > MAX_IMAGE_BYTES:
        raise ScanFileError(
            f"{name}: the header claims {' x '.join(map(str, sizes)):.60} voxels of {dtype}; expected at least one a "
            f"side and at most {MAX_IMAGE_BYTES >> 30} GiB. Repair the header, or crop the scan."
        )
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.stack(steps, axis=1), origin
    try:
        geometry = ImageGeometry.from_affine(sizes[::-1], affine)
    except GeometryError as error:
        raise ScanFileError(f"{name}: {error}") from error
    check_extent(geometry, name=name)
    check_shear(geometry, name=name, warnings=warnings)
    return StoredImage(geometry, 1, dtype, offset, None, 0.0, tuple(warnings), packing)


def _nrrd_vectors(fields: _Fields, sizes: list[int], name: str) -> list[np.ndarray | None]:
    """Return the step along each array axis in the file's space; None for an axis that is not spatial."""
    if "space directions" in fields:
        words = fields["space directions"].replace(", ", ",").split()
        vectors = [
            None if word.lower() == "none" else _vector(word, name, is_plane=_is_plane(fields)) for word in words
        ]
    else:
        spacing = _floats(fields, ("spacings",), name, default=[1.0] * len(sizes))
        _refuse_negative(spacing, name)
        vectors = [step * axis for step, axis in zip(spacing, np.eye(3), strict=False)]
    if len(vectors) != len(sizes):
        raise ScanFileError(f"{name}: there are {len(sizes)} sizes and {len(vectors)} axes. Repair the header.")
    return vectors


def _nrrd_space(fields: _Fields, name: str) -> tuple[np.ndarray, list[str]]:
    space = fields.get("space", "").strip('"').lower()
    if space in NRRD_SPACES:
        return NRRD_SPACES[space], []
    if space or ("space directions" in fields and not _is_plane(fields)):
        raise ScanFileError(
            f"{name}: its space is {space!r:.60}; expected one of {', '.join(sorted(NRRD_SPACES))}. Repair the header."
        )
    return LPS_TO_RAS, ["the header says nothing of the patient's axes; left, posterior, superior are taken."]


def _refuse_negative(spacing: list[float], name: str) -> None:
    """Refuse a spacing below zero: some programs flip the axis then, others do not."""
    if min(spacing, default=0.0) < 0:
        raise ScanFileError(f"{name}: a spacing is {min(spacing):g}; expected positive numbers. Repair the header.")


def _is_true(fields: _Fields, key: str, *, default: str = "False") -> bool:
    """Return a boolean of MetaImage, which writes True, true, T or 1."""
    return fields.get(key, default)[:1].lower() in ("t", "1")


def _is_plane(fields: _Fields) -> bool:
    return fields.get("space dimension") == "2"


def _nrrd_unit_mm(fields: _Fields, name: str) -> float:
    """Return the millimeters of the file's unit of length."""
    units = {word.strip('"').lower() for word in fields.get("space units", "mm").split()} - {"", "???", "none"}
    if len(units) > 1 or not units <= UNITS_MM.keys():
        raise ScanFileError(
            f"{name}: space units is {fields['space units']!r:.60}; expected mm, um, cm or m for all axes. Repair the "
            "header."
        )
    return UNITS_MM[units.pop()] if units else 1.0


def _dtype(types: Mapping[str, str], word: str, name: str, *, big: bool) -> np.dtype:
    if word not in types:
        raise ScanFileError(f"{name} stores {word!r:.40} in its voxels; expected grey values. Convert it.")
    return np.dtype(types[word]).newbyteorder(">" if big else "<")


def _field(fields: _Fields, key: str, name: str) -> str:
    if key not in fields:
        raise ScanFileError(f"{name}: the header has no {key}. The file is damaged; export it again.")
    return fields[key]


def _numbers(fields: _Fields, key: str, name: str) -> list[int]:
    try:
        return [int(word) for word in _field(fields, key, name).split()]
    except ValueError:
        raise ScanFileError(f"{name}: {key} is {fields[key]!r:.60}; expected whole numbers. Repair it.") from None


def _floats(fields: _Fields, keys: tuple[str, ...], name: str, *, default: list[float]) -> list[float]:
    """Return the numbers of the first of these keys that is present."""
    for key in keys:
        if key in fields:
            try:
                return [float(word) for word in fields[key].split()]
            except ValueError:
                raise ScanFileError(f"{name}: {key} is {fields[key]!r:.60}; expected numbers. Repair it.") from None
    return default


def _vector(word: str, name: str, *, is_plane: bool) -> np.ndarray:
    """Read a vector of three numbers, or of two for a single slice in a space of two axes."""
    try:
        vector = np.array([float(part) for part in word.strip().strip("()").split(",")])
    except ValueError:
        vector = np.zeros(0)
    if vector.shape != ((2,) if is_plane else (3,)):
        raise ScanFileError(f"{name}: {word!r:.60} is not a vector of three numbers. Repair the header.")
    return np.append(vector, [0.0] * (3 - len(vector)))
