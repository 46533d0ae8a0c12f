"""Bad scan files: bytes of good ones, and what chance and careless programs make of them.

Owns: whole files in every form that autoseg reads, and damage to them, as bytes. Nothing here is autoseg's own: NIfTI
comes from nibabel, NRRD and MetaImage from text written by hand.
Does not own: what autoseg should say of them (the tests).
"""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

FIELDS = {  # of NIfTI-1 that tests damage: offset in the header, struct code
    "dim": (40, "8h"),
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    "pixdim": (76, "8f"),
    "vox_offset": (108, "f"),
    "scl_slope": (112, "f"),
    "scl_inter": (116, "f"),
    "xyzt_units": (123, "B"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    "qoffset_x": (268, "f"),
    "srow_x": (280, "4f"),
    "srow_y": (296, "4f"),
    "magic": (344, "4s"),
}
WEB_PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Log in</title></head></html>\n"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
ANNEX_POINTER = b"/annex/objects/SHA256E-s1234--4d7a2146.nii.gz\n"
SERVERS_WORDS = b'{"error": "quota exceeded", "code": 403}\n'
ZIP = b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(60)
TAR = b"scans/a.nii".ljust(257, b"\0") + b"ustar\x0000" + bytes(248)


def nifti(array: np.ndarray, *, spacing_xyz_mm: tuple[float, float, float] = (1, 1, 1), kind: Any = None) -> bytes:
    """Give an unpacked NIfTI file with sform and qform, its array indexed z, y, x (and volumes before these)."""
    affine = np.diag([*spacing_xyz_mm, 1.0])
    image = (kind or nib.Nifti1Image)(np.asarray(array).transpose(), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return image.to_bytes()


def with_fields(content: bytes, *, order: str = "<", **fields: Any) -> bytes:
    """Change fields of an unpacked NIfTI-1 header; those of several numbers are given as tuples."""
    changed = bytearray(content)
    for field, value in fields.items():
        offset, code = FIELDS[field]
        struct.pack_into(order + code, changed, offset, *(value if isinstance(value, tuple) else (value,)))
    return bytes(changed)


def packed(content: bytes) -> bytes:
    """Compress as `.nii.gz` is."""
    return gzip.compress(content, 4, mtime=0)


def bomb(content: bytes, *, mib: int = 64) -> bytes:
    """Give some KB of gzip that go on for so many MiB of zeros after the content."""
    return packed(content + bytes(mib << 20))


def cut(content: bytes, fraction: float) -> bytes:
    """Keep the first part of a file."""
    return content[: int(len(content) * fraction)]


def flipped(content: bytes, place: int, *, mask: int = 0x10) -> bytes:
    """Flip bits of one byte; a negative place counts from the end."""
    changed = bytearray(content)
    changed[place] ^= mask
    return bytes(changed)


def flip_middle(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def nrrd(array: np.ndarray, *, is_packed: bool = False, **fields: str) -> bytes:
    """Give an NRRD file on the grid of `nifti`; fields are added or replaced, with underscores for blanks."""
    array = np.asarray(array)
    header = {
        "type": {"f": "float", "i": "short", "u": "uchar"}[array.dtype.kind],
        "dimension": str(array.ndim),
        "space": "right-anterior-superior",
        "sizes": " ".join(map(str, array.shape[::-1])),
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "space origin": "(0,0,0)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "gzip" if is_packed else "raw",
        **{name.replace("_", " "): text for name, text in fields.items()},
    }
    text = "NRRD0004\n" + "".join(f"{name}: {value}\n" for name, value in header.items()) + "\n"
    return text.encode() + (packed(array.tobytes()) if is_packed else array.tobytes())


def metaimage(array: np.ndarray, *, is_packed: bool = False, **fields: str) -> bytes:
    """Give a MetaImage file on the grid of `nifti`; fields are added or replaced."""
    array = np.asarray(array)
    header = {
        "ObjectType": "Image",
        "NDims": str(array.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(is_packed),
        "TransformMatrix": "-1 0 0 0 -1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 1 1",
        "DimSize": " ".join(map(str, array.shape[::-1])),
        "ElementType": {"f": "MET_FLOAT", "i": "MET_SHORT", "u": "MET_UCHAR"}[array.dtype.kind],
        **fields,
        "ElementDataFile": "LOCAL",
    }
    text = "".join(f"{name} = {value}\n" for name, value in header.items())
    return text.encode() + (zlib.compress(array.tobytes(), 4) if is_packed else array.tobytes())


def random_bytes_changed(content: bytes, rng: np.random.Generator, *, length: int, most: int = 8) -> bytes:
    """Change up to `most` of the first `length` bytes: to anything, to an extreme, by a bit, or by a neighbor's."""
    changed = bytearray(content)
    for place in rng.integers(0, length, rng.integers(1, most + 1)):
        match rng.integers(0, 4):
            case 0:
                changed[place] = rng.integers(0, 256)
            case 1:
                changed[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF])
            case 2:
                changed[place] ^= 1 << rng.integers(0, 8)
            case _:
                changed[place] = changed[rng.integers(0, length)]
    return bytes(changed)


def random_field(content: bytes, rng: np.random.Generator) -> bytes:
    """Set one number of a NIfTI-1 header to something that a careless program may have written."""
    name = str(rng.choice(list(FIELDS)))
    offset, code = FIELDS[name]
    letter, count = code[-1], int(code[:-1] or 1)
    place = offset + int(rng.integers(0, count)) * struct.calcsize(letter) if letter != "s" else offset
    changed = bytearray(content)
    if letter == "f":
        numbers = [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 1e-30, 1e30, 3.4e38, 352.0, 1e6, 2e9]
        struct.pack_into("<f", changed, place, rng.choice(numbers))
    elif letter == "h":
        struct.pack_into("<h", changed, place, rng.choice([-32768, -1, 0, 1, 2, 4, 5, 16, 64, 128, 2304, 32767]))
    else:
        changed[place] = rng.integers(0, 256)
    return bytes(changed)


def random_text_changed(content: bytes, rng: np.random.Generator, *, length: int) -> bytes:
    """Change a header of text: bytes of it, a number, or a line left out, repeated or moved."""
    if rng.integers(0, 2):
        return random_bytes_changed(content, rng, length=length)
    lines = content[:length].split(b"\n")
    number = int(rng.integers(0, len(lines)))
    match rng.integers(0, 4):
        case 0:
            del lines[number]
        case 1:
            lines.insert(int(rng.integers(0, len(lines))), lines[number])
        case 2:
            words = lines[number].split(b" ")
            numbers = [
                b"-1",
                b"0",
                b"1e308",
                b"nan",
                b"inf",
                b"9" * 40,
                b"4294967297",
                b"",
                b"none",
                b"(1,2)",
                b"\xff\xfe",
            ]
            words[int(rng.integers(0, len(words)))] = numbers[int(rng.integers(0, len(numbers)))]
            lines[number] = b" ".join(words)
        case _:
            lines[number] = lines[number] * int(rng.integers(2, 2000))
    return b"\n".join(lines) + content[length:]


def random_stream_damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut, flip, splice or repeat bytes of a whole file."""
    first, last = sorted(int(place) for place in rng.integers(0, len(content), 2))
    match rng.integers(0, 6):
        case 0:
            return content[:last]
        case 1:
            return flipped(content, last, mask=1 << int(rng.integers(0, 8)))
        case 2:
            return content[:first] + content[last:]
        case 3:
            return content[:last] + content[first:]
        case 4:
            return content[:first] + rng.bytes(int(rng.integers(1, 200))) + content[last:]
        case _:
            return content + content[: int(rng.integers(1, len(content)))]
