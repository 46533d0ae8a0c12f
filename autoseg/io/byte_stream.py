"""Reads the bytes of a scan file, plain or gzipped, and verifies that the file is whole and really a scan.

Owns: `file_fault`, which refuses paths that are not regular files, and `ScanStream`, which recognizes gzip by the
first bytes, never by the name, and keeps no more in memory than was asked for.
Does not own: what the bytes mean (`nifti_header.py`, `image.py`).
"""

import os
import stat
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from autoseg.errors import ScanFileError, printable

CHUNK_BYTES = 1 << 20  # that are read at a time, and unpacked at a time
GZIP_MAGIC = b"\x1f\x8b"
MAX_DEFLATE_RATIO = 1032  # the format cannot pack more bytes into one (zlib, technical details)
MAX_EXTRA_BYTES = 16 << 20  # after the voxels; some writers pad, a bomb goes on for ever

# First bytes of what is often found under the name of a scan, what it is, and what to do.
_OTHER_KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the scan itself. Run `git lfs pull`"),
    (b"/annex/objects", "a git-annex pointer, not the scan itself. Run `git annex get`"),
    (b"<!doctype html", "a web page, not a scan. Download the file again; the link may need a login"),
    (b"<html", "a web page, not a scan. Download the file again; the link may need a login"),
    (b"<?xml", "an XML document, not a scan. Download the file again"),
    (b"pk\x03\x04", "a zip archive. Unpack it"),
    (b"bzh", "compressed by bzip2. Unpack it and compress with gzip"),
    (b"\xfd7zxz", "compressed by xz. Unpack it and compress with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd. Unpack it and compress with gzip"),
    (b"\x89hdf", "an HDF5 file. Convert it to .nii.gz"),
    (b"\x89png", "a PNG image. Convert the slices to one .nii.gz"),
    (b"\xff\xd8\xff", "a JPEG image. Convert the slices to one .nii.gz"),
    (b"ii*\0", "a TIFF image. Convert it to .nii.gz"),
    (b"mm\0*", "a TIFF image. Convert it to .nii.gz"),
    (b"\x93numpy", "an array of numpy, which does not say where its voxels lie. Convert it to .nii.gz"),
    (b"%pdf", "a PDF document, not a scan. Download the file again"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive. Unpack it"),
    (b"rar!", "a RAR archive. Unpack it"),
)
_KINDS_INSIDE_GZIP = (
    (GZIP_MAGIC, "packed by gzip once more. Unpack it once"),
    (b"nrrd000", "an NRRD file. Unpack it; NRRD has a compression of its own"),
    (b"objecttype", "a MetaImage file. Unpack it; MetaImage has a compression of its own"),
)


def display_name(path: Path) -> str:
    """Return the name of a file for messages: its folder and name, with control characters made visible."""
    return printable("/".join(Path(path).parts[-2:]))


class ScanStream:
    """The unpacked bytes of one scan file, read from front to end once; a context manager.

    Attributes:
        name: The name of the file for messages.
        is_gzip: Whether the bytes are decompressed.
        most_bytes: The most bytes that the file can contain after decompression.

    Raises:
        ScanFileError: There is no such regular file, it is empty, of another kind, or its gzip data is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.name = display_name(path)
        self._file, size = _open_scan(Path(path), self.name)  # closed by __exit__
        try:
            self._raw = self._read_file()
            refuse_other_kinds(self._raw, name=self.name)
        except ScanFileError:
            self._file.close()
            raise
        self.is_gzip = self._raw.startswith(GZIP_MAGIC)
        self._decoder = zlib.decompressobj(wbits=31) if self.is_gzip else None
        self._ready = b""
        self._is_cut = False
        self._has_rubbish = False
        self.most_bytes = size * MAX_DEFLATE_RATIO if self.is_gzip else size

    def __enter__(self) -> "ScanStream":
        """Return the stream itself; leaving the block closes the file."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, count: int, *, begin: bytes = b"") -> bytearray:
        """Read the next bytes until there are `count`, or fewer where the file ends.

        Memory grows with the bytes that are there: a header that claims gigabytes in a small file allocates nothing.

        Args:
            count: The length of the result.
            begin: Bytes that were read before and begin the result.
        """
        buffer = bytearray(begin)
        while len(buffer) < count and (part := self._next(min(count - len(buffer), CHUNK_BYTES))):
            buffer += part
        return buffer

    def skip(self, count: int) -> None:
        """Skip the next `count` bytes, or the rest of the file where there are fewer."""
        while count > 0 and (part := self._next(min(count, CHUNK_BYTES))):
            count -= len(part)

    def peek(self, count: int) -> bytes:
        """Return the next bytes without consuming them; at most one chunk."""
        return self._raw[:count]

    def begin_packed(self, wbits: int) -> None:
        """Decompress from here on; used for formats whose text header is not compressed.

        Args:
            wbits: The format as zlib numbers it: 15 for zlib, 31 for gzip.
        """
        assert self._decoder is None
        self._decoder = zlib.decompressobj(wbits=wbits)
        self.most_bytes *= MAX_DEFLATE_RATIO

    def finish(self) -> int:
        """Read to the end, so that the checksum is verified, and return the number of bytes that were left.

        Raises:
            ScanFileError: The gzip stream has no end or fails its checksum, or far too much is left.
        """
        extra = 0
        while part := self._next(CHUNK_BYTES):
            extra += len(part)
            if extra > MAX_EXTRA_BYTES:
                raise ScanFileError(
                    f"{self.name} continues for more than {MAX_EXTRA_BYTES >> 20} MiB after the voxels that its header "
                    f"describes. The header is damaged, or the file is not a scan; export it again."
                )
        if self._is_cut:
            raise ScanFileError(f"{self.name} is cut off: the packed data has no end. Copy or download the file again.")
        return extra + int(self._has_rubbish)

    def _next(self, limit: int) -> bytes:
        """Return between 1 and `limit` bytes, or none at the end."""
        if self._decoder is not None:
            return self._inflate(limit)
        data = self._raw or self._read_file()
        self._raw = data[limit:]
        return data[:limit]

    def _inflate(self, limit: int) -> bytes:
        while self._decoder is not None:
            if self._decoder.eof and not self._start_next_member():
                return b""
            data = self._raw or self._read_file()
            try:
                part = self._decoder.decompress(data, limit)
            except zlib.error as error:
                raise ScanFileError(
                    f"{self.name} is damaged: its packed data fails the check ({error}). Copy or download it again."
                ) from error
            self._raw = self._decoder.unconsumed_tail
            if part:
                return part
            if not data and not self._decoder.eof:
                self._is_cut = True
                return b""
        return b""

    def _start_next_member(self) -> bool:
        """Continue with the next gzip member, as pigz and bgzip write them; return whether there is one."""
        assert self._decoder is not None
        rest = self._decoder.unused_data or self._raw or self._read_file()
        while rest and not rest.strip(b"\0"):  # padding, as on tapes
            rest = self._read_file()
        if len(rest) == 1:
            rest += self._read_file()
        if not rest.startswith(GZIP_MAGIC):
            self._has_rubbish = bool(rest)
            self._raw = b""
            return False
        self._decoder = zlib.decompressobj(wbits=31)
        self._raw = rest
        return True

    def _read_file(self) -> bytes:
        try:
            return self._file.read(CHUNK_BYTES)
        except OSError as error:
            raise ScanFileError(f"{self.name} cannot be read: {error.strerror}. Check the disk.") from error


def file_fault(path: Path) -> str | None:
    """Explain why a path is not a regular file, or return None; a pipe would block, so nothing is opened."""
    name = display_name(path)
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        what = "is a link to a file that does not exist" if Path(path).is_symlink() else "does not exist"
        return f"{name} {what}. Check the path."
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error  # not all of an OSError, which names folders above
        return f"{name} cannot be reached: {why}. Check the path and its permissions."
    if stat.S_ISDIR(mode):
        return f"{name} is a folder; expected a file. Name the file inside it."
    if not stat.S_ISREG(mode):
        return f"{name} is a pipe, socket or device; expected a regular file. Copy its content into one."
    return None


def _open_scan(path: Path, name: str) -> tuple[BinaryIO, int]:
    """Open a regular file that is not empty, and return its size too."""
    fault = file_fault(path)
    if fault:
        raise ScanFileError(fault)
    try:
        file = path.open("rb")
    except OSError as error:
        raise ScanFileError(f"{name} cannot be opened: {error.strerror}. Check its permissions.") from error
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        file.close()
        raise ScanFileError(f"{name} is empty (0 bytes). Copy or download it again.")
    return file, size


def refuse_other_kinds(first: bytes, *, name: str, is_unpacked: bool = False) -> None:
    """Refuse a file that has the name of a scan and is of another kind, where the kind can be recognized.

    Args:
        first: Its first bytes, 512 or more where there are so many.
        name: The name of the file for messages.
        is_unpacked: Whether `first` was inside gzip.

    Raises:
        ScanFileError: It is of another kind.
    """
    subject = f"{name}, unpacked," if is_unpacked else name
    start = first[:512].lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    for magic, what in (*_OTHER_KINDS, *(_KINDS_INSIDE_GZIP if is_unpacked else ())):
        if start.startswith(magic):
            raise ScanFileError(f"{subject} is {what}.")
    if first[128:132] == b"DICM":
        raise ScanFileError(f"{subject} is a DICOM file. Convert the series to .nii.gz, for example with dcm2niix.")
    if first[257:262] == b"ustar":
        raise ScanFileError(f"{subject} is a tar archive. Unpack it.")


def refuse_text(first: bytes, *, name: str) -> None:
    """Refuse a text file, such as a server's error page; its words are not repeated in the message.

    Raises:
        ScanFileError: All of its first bytes are letters, digits, signs and white space.
    """
    if first and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in first):
        raise ScanFileError(f"{name} is text, not a scan. Look into it with an editor, then get the file again.")
