"""The bytes of a scan file: is it a file at all, what does it really hold, and does it go on to its end?

Owns: refusal of what is no scan, and `ScanStream`, which reads plain and gzipped files alike, told apart by their
first bytes and never by their name, without holding more than asked for.
Does not own: what the bytes mean (`nifti_header.py`, `image_io.py`).
"""

import stat
import zlib
from pathlib import Path
from types import TracebackType

from autoseg.errors import ScanFileError, printable

CHUNK_BYTES = 1 << 20
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
)


def display_name(path: Path) -> str:
    """Name a file in messages: its folder and name, control characters made visible, no home folder."""
    return printable("/".join(Path(path).parts[-2:]))


class ScanStream:
    """The unpacked bytes of one scan file, read from front to end once; a context manager.

    Attributes:
        name: The file in words, for messages.
        is_gzip: Whether the bytes are unpacked on the way.
        most_bytes: More than this the file cannot hold, unpacked.

    Raises:
        ScanFileError: There is no such regular file, it is empty, of another kind, or its gzip data is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.name = display_name(path)
        size = _regular_size(Path(path), self.name)
        try:
            self._file = Path(path).open("rb")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise ScanFileError(f"{self.name} cannot be opened: {error.strerror}. Check its permissions.") from error
        try:
            self._raw = self._read_file()
            _refuse_other_kinds(self._raw, self.name)
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
        """Give the stream itself; leaving the block closes the file."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """Take the next `count` bytes; fewer only where the file ends."""
        buffer = bytearray(count)
        return bytes(buffer[: self.read_into(memoryview(buffer))])

    def read_into(self, target: memoryview) -> int:
        """Fill `target` with the next bytes and give their number, which is smaller only where the file ends."""
        filled = 0
        while filled < len(target):
            part = self._next(len(target) - filled)
            if not part:
                break
            target[filled : filled + len(part)] = part
            filled += len(part)
        return filled

    def peek(self, count: int) -> bytes:
        """Give the next bytes as they lie in the file and leave them there; at most a chunk's worth."""
        return self._raw[:count]

    def begin_packed(self, wbits: int) -> None:
        """Unpack from here on; the file itself is not packed, as in formats with a header of text.

        Args:
            wbits: As zlib has it: 15 for its own format, 31 for gzip.
        """
        assert self._decoder is None
        self._decoder = zlib.decompressobj(wbits=wbits)
        self.most_bytes *= MAX_DEFLATE_RATIO

    def finish(self) -> int:
        """Read on to the end, so that the checksum is verified; give the number of bytes that were left.

        Raises:
            ScanFileError: The gzip stream has no end or fails its checksum, or far too much is left.
        """
        extra = 0
        while part := self._next(CHUNK_BYTES):
            extra += len(part)
            if extra > MAX_EXTRA_BYTES:
                raise ScanFileError(
                    f"{self.name} goes on for more than {MAX_EXTRA_BYTES >> 20} MiB after the voxels that its header "
                    f"describes. The header is damaged, or the file is no scan; export it again."
                )
        if self._is_cut:
            raise ScanFileError(f"{self.name} is cut off: the packed data has no end. Copy or download the file again.")
        return extra + int(self._has_rubbish)

    def _next(self, limit: int) -> bytes:
        """Give between 1 and `limit` bytes, or none at the end."""
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
        """Go on to the next gzip member, as pigz and bgzip write them; say whether there is one."""
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


def _regular_size(path: Path, name: str) -> int:
    """Give the size of a regular file, without opening it: opening a FIFO would wait for ever."""
    try:
        status = path.stat()
    except FileNotFoundError:
        what = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise ScanFileError(f"{name} {what}. Check the path.") from None
    except (OSError, ValueError) as error:
        raise ScanFileError(f"{name} cannot be reached: {error}. Check the path and its permissions.") from error
    if stat.S_ISDIR(status.st_mode):
        raise ScanFileError(f"{name} is a folder; expected a file. Name the file inside it.")
    if not stat.S_ISREG(status.st_mode):
        raise ScanFileError(f"{name} is a pipe, socket or device; expected a regular file.")
    if status.st_size == 0:
        raise ScanFileError(f"{name} is empty (0 bytes). Copy or download it again.")
    return status.st_size


def _refuse_other_kinds(first: bytes, name: str) -> None:
    start = first[:512].lstrip(b" \t\r\n\xef\xbb\xbf").lower()
    for magic, what in _OTHER_KINDS:
        if start.startswith(magic):
            raise ScanFileError(f"{name} is {what}.")
    if first[128:132] == b"DICM":
        raise ScanFileError(f"{name} is a DICOM file. Convert the series to .nii.gz, for example with dcm2niix.")
