import os
import time

import pytest

from autoseg.planning.fingerprint import file_state
from autoseg.planning.fingerprint.file_state import UNSETTLED_NS, are_unchanged, note_again, note_files


@pytest.fixture
def file(tmp_path):
    """Write a file that was changed long ago, as far as its own time says."""
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1))
    return path


@pytest.fixture
def later(monkeypatch):
    """Let the clock show what it will show when file times of now are long past."""
    now = time.time_ns
    monkeypatch.setattr(file_state.time, "time_ns", lambda: now() + 2 * UNSETTLED_NS)


def no_reading(*_args, **_facts):
    raise AssertionError("the file was read")


def test_a_settled_file_with_the_same_times_is_the_same_without_reading_it(file, later, monkeypatch):
    files = note_files([file])
    monkeypatch.setattr(file_state, "_note", no_reading)
    assert are_unchanged(files, [file]) and note_again(files, [file]) == files


def test_a_file_changed_just_before_it_was_noted_is_compared_by_its_bytes(file):
    files = note_files([file])  # the inode's time is that of now
    assert not files[0].is_settled and not are_unchanged(files, [file])
    assert note_again(files, [file])[0].digest == files[0].digest
    stat = file.stat()
    file.write_bytes(b"12346")  # a file system that notes whole seconds would show the same times
    coarse = files[0].model_copy(update={"changed_ns": stat.st_mtime_ns, "inode_changed_ns": file.stat().st_ctime_ns})
    os.utime(file, ns=(1, 1))
    assert note_again([coarse], [file]) is None


def test_a_file_of_the_future_never_settles(file, later):
    ahead = time.time_ns() + 10**12
    os.utime(file, ns=(ahead, ahead))
    assert not are_unchanged(note_files([file]), [file])


def test_a_touched_file_is_the_same_and_is_noted_anew(file, later):
    files = note_files([file])
    os.utime(file, ns=(5, 5))
    assert not are_unchanged(files, [file])
    (again,) = note_again(files, [file])
    assert again.changed_ns == 5 and again.digest == files[0].digest
    assert are_unchanged([again], [file])


def test_other_bytes_with_the_size_and_time_of_before_are_seen(file, later):
    files = note_files([file])
    file.write_bytes(b"54321")
    os.utime(file, ns=(1, 1))  # as rsync and cp -p do; the inode's time cannot be set
    assert not are_unchanged(files, [file]) and note_again(files, [file]) is None


def test_another_size_is_another_file_without_reading_it(file, later, monkeypatch):
    files = note_files([file])
    file.write_bytes(b"123456")
    monkeypatch.setattr(file_state, "_note", no_reading)
    assert note_again(files, [file]) is None


def test_a_file_that_is_gone_or_one_more_is_no_match(file, later):
    files = note_files([file])
    assert not are_unchanged(files, [file, file]) and note_again(files, [file, file]) is None
    file.unlink()
    assert not are_unchanged(files, [file]) and note_again(files, [file]) is None
    assert note_files([file]) is None
