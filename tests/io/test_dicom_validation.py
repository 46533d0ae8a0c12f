import struct

import numpy as np
import pytest

from autoseg.errors import ScanFileError
from autoseg.io.dicom_validation import check_dicom_file

EXPLICIT, IMPLICIT, BIG, JPEG = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".2", ".4.90"))
PIXELS = bytes(range(24))  # 3 rows of 4 pixels of 16 bits


def element(tag: int, kind: str, value: bytes, *, explicit: bool = True, order: str = "<", length: int | None = None):
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    length = len(value) if length is None else length
    if not explicit:
        return head + struct.pack(f"{order}I", length) + value
    if kind in ("OW", "SQ", "UN"):
        return head + kind.encode() + b"\0\0" + struct.pack(f"{order}I", length) + value
    return head + kind.encode() + struct.pack(f"{order}H", length) + value


def item(value: bytes, *, length: int | None = None) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value) if length is None else length) + value


END_OF_ITEM, END_OF_SEQUENCE = (struct.pack("<HHI", 0xFFFE, element, 0) for element in (0xE00D, 0xE0DD))


def dicom(*, syntax=EXPLICIT, rows=3, pixels=PIXELS, pixel_length=None, more=b"") -> bytes:
    explicit, order = syntax != IMPLICIT, ">" if syntax == BIG else "<"
    body = more
    for tag, value in ((0x00280010, rows), (0x00280011, 4), (0x00280100, 16)):
        body += element(tag, "US", struct.pack(f"{order}H", value), explicit=explicit, order=order)
    body += element(0x7FE00010, "OW", pixels, explicit=explicit, order=order, length=pixel_length)
    return bytes(128) + b"DICM" + element(0x00020010, "UI", syntax.encode().ljust(20, b"\0")) + body


@pytest.fixture
def check(tmp_path):
    def run(content: bytes) -> None:
        (tmp_path / "a.dcm").write_bytes(content)
        check_dicom_file(tmp_path / "a.dcm")

    return run


NESTED = element(0x00081140, "SQ", item(element(0x00081155, "UI", b"1.2 ")))
UNDEFINED = 0xFFFFFFFF
OPEN_ITEM = item(element(0x00081155, "UI", b"1.2 ") + END_OF_ITEM, length=UNDEFINED)
OPEN = element(0x00081140, "SQ", OPEN_ITEM, length=UNDEFINED)
FRAGMENTS = item(b"") + item(b"\xff" * 10) + END_OF_SEQUENCE


@pytest.mark.parametrize(
    "content",
    [
        dicom(),
        dicom(syntax=IMPLICIT),
        dicom(syntax=BIG),
        dicom(more=NESTED),
        dicom(more=OPEN + END_OF_SEQUENCE),
        dicom(syntax=JPEG, pixels=FRAGMENTS, pixel_length=UNDEFINED),
        dicom() + bytes(6),  # padding
    ],
)
def test_a_whole_file_is_accepted_in_every_form(check, content):
    check(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (dicom()[:-1], r"\(7fe0,0010\) claims 24 bytes where 23 are left"),
        (dicom(pixel_length=0x7FFFFFFF), r"\(7fe0,0010\) claims 2147483647 bytes where 24 are left"),
        (dicom(more=element(0x00100010, "PN", b"DOE", length=60000)), r"\(0010,0010\) claims 60000 bytes"),
        (dicom(syntax=IMPLICIT, more=element(0x00100010, "", b"", explicit=False, length=2**31)), "claims 2147483648"),
        (dicom(more=element(0x00081140, "SQ", item(element(0x00081155, "UI", b"1.2 ", length=9)))), "claims 9 bytes"),
        (dicom(more=element(0x00081140, "SQ", item(b"", length=4000))), r"\(fffe,e000\) claims 4000 bytes where 0 are"),
        (dicom(rows=65535), "4 x 65535 pixels of 16 bits do not fit into the picture that it holds"),
        (dicom(syntax=JPEG, rows=65535, pixels=FRAGMENTS, pixel_length=UNDEFINED), None),
        (dicom(more=element(0x00100010, "ZZ", b"DOE ")), r"\(0010,0010\) is of the unknown kind ZZ"),
        (dicom(more=item(b"", length=UNDEFINED) * 100), "nested more than 64 deep"),
        (dicom(rows=0), "it holds no picture"),
        (dicom()[:160], "it holds no picture"),
        (bytes(128) + b"DICM" + bytes(100), "does not say how its elements are written"),
        (dicom(syntax="1.2.840.10008.1.2.1.99"), "compressed as a whole"),
    ],
)
def test_what_claims_more_than_it_holds_is_refused(check, content, words):
    if words is None:
        return check(content)  # 0.5 MB, which a compressed picture of any size may hold
    with pytest.raises(ScanFileError, match=rf"a\.dcm is damaged: .*{words}.*\. Copy it again") as caught:
        check(content)
    assert "DOE" not in str(caught.value)
    return None


def test_a_file_that_need_not_hold_a_picture_may_hold_none(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(dicom()[:160])
    check_dicom_file(tmp_path / "DICOMDIR", has_picture=False)


def test_every_cut_and_every_changed_byte_is_refused_or_accepted_at_once(check):
    whole = dicom(more=NESTED)
    for length in range(132, len(whole)):
        with pytest.raises(ScanFileError):
            check(whole[:length])
    rng = np.random.default_rng(0)
    for place in range(132, len(whole)):
        for byte in {0, 255, int(rng.integers(256))}:
            try:
                check(whole[:place] + bytes([byte]) + whole[place + 1 :])
            except ScanFileError as error:
                assert str(error).isprintable()
