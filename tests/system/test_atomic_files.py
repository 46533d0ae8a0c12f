import errno
import hashlib
import json
import os
import stat

import pytest

from autoseg.errors import UsageError
from autoseg.system.atomic_files import (
    atomic_path,
    explain_write_error,
    fault_of,
    file_sha256,
    parse_json,
    read_json,
    remove_leftovers,
    write_bytes,
    write_json,
    write_text,
)


def test_write_json_read_json_gives_the_same(tmp_path):
    content = {"name": "Gehirn ü", "values": [1, 2.5, None, True]}
    write_json(tmp_path / "new" / "a.json", content)
    assert read_json(tmp_path / "new" / "a.json") == content
    assert "ü" in (tmp_path / "new" / "a.json").read_text(encoding="utf-8")


def test_write_text_replaces_and_leaves_no_other_file(tmp_path):
    write_text(tmp_path / "a.txt", "long old text")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_atomic_path_error_keeps_the_old_file_and_no_other(tmp_path):
    write_bytes(tmp_path / "a.bin", b"old")
    with pytest.raises(KeyError), atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"half of the n")
        raise KeyError
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_atomic_path_name_ends_as_the_final_one(tmp_path):
    with atomic_path(tmp_path / "case.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == tmp_path
        assert not (tmp_path / "case.nii.gz").exists()


def test_write_bytes_gives_the_rights_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == 1


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b"[Infinity]", "Infinity is not a number"),
        (b"{", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b'"\xff"', "cannot be read as JSON"),
    ],
)
def test_read_json_fault_is_named(tmp_path, content, fault):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UsageError, match=fault):
        read_json(tmp_path / "a.json")


def test_read_json_missing_file_and_folder_are_errors(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_json(tmp_path)


def test_remove_leftovers_takes_what_a_killed_process_was_writing(tmp_path):
    for name in ("a.nii.gz", ".writing-x.nii.gz", "other/.writing-y.png"):
        write_text(tmp_path / name, "content")
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "absent")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".writing-y.png", "a.nii.gz", "other"]


def test_file_sha256_of_more_than_one_piece(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_write_json_names_of_any_bytes_come_back(tmp_path):
    name = os.fsdecode(b"\xff ") + "ü日"
    write_json(tmp_path / "a.json", {name: [name]})
    assert "ü日" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {name: [name]}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[" * 100_000, "more than 60 deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "more than 60 deep"),
        ("[" * 62 + "]" * 62, "more than 60 deep"),
        ("1e400", "the number 1e400 is too large"),
        ("-1e400", "too large"),
        ("9" * 401, "has 401 digits"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' occurs twice"),
        (b"\xef\xbb\xbf\xef\xbb\xbf1", "BOM|Expecting value"),
        (b"\xff\xfe1\x00", "can't decode"),
        ("1 2", "Extra data"),
    ],
)
def test_parse_json_says_what_is_wrong(text, fault):
    with pytest.raises(ValueError, match=fault):
        parse_json(text)


def test_parse_json_takes_all_that_is_json():
    assert parse_json(b'\xef\xbb\xbf{"a": [1, -2.5e3, null, true, "\\u00fc"]}') == {
        "a": [1, -2500.0, None, True, "\u00fc"]
    }
    assert parse_json("[" * 61 + "]" * 61) == json.loads("[" * 61 + "]" * 61)
    assert parse_json("9" * 400) == int("9" * 400)


def test_write_json_gives_any_name_back_and_shows_no_control_character(tmp_path):
    names = [
        "\x7f\x9b1m",
        "\u202e\u200b",
        "caf\u00e9",
        "\ud800",
        "bad \udcff byte",
        "\U000e0041",
        "\U0001f600",
        "\n",
        "\u2028",
    ]
    write_json(tmp_path / "a.json", {name: name for name in names})
    assert read_json(tmp_path / "a.json") == {name: name for name in names}
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert all(line.isprintable() for line in text.split("\n"))
    assert "caf\u00e9" in text and "\U0001f600" in text and r"\udb40\udc41" in text


def test_read_json_does_not_wait_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(UsageError, match=r"a\.json cannot be read as JSON: it is not a regular file"):
        read_json(tmp_path / "a.json")


def test_fault_of_names_a_file_by_folder_and_name():
    assert fault_of(OSError(28, "No space left", "/home/jane/data/a.nii")) == "data/a.nii: No space left"
    assert fault_of(OSError(28, "No space left")) == "No space left"
    assert fault_of(OSError("odd")) == "odd"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "No space left on device. Free space there or choose another place."),
        (errno.EACCES, "Permission denied. Check the permissions there, or choose another place."),
        (errno.EFBIG, "File too large. The file system or `ulimit -f` allows no larger file; choose another place."),
    ],
)
def test_explain_write_error_names_the_file_and_not_its_temporary_name(code, remedy):
    error = OSError(code, os.strerror(code), "out/.writing-a.json-x1")
    assert explain_write_error(error, "out/a.json") == f"out/a.json cannot be written: {remedy}"
    error = OSError(code, os.strerror(code), "out/b.json")
    assert explain_write_error(error, "out") == f"out/b.json cannot be written: {remedy}"
