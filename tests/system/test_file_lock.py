import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from autoseg.errors import LockedError, UsageError
from autoseg.system import file_lock
from autoseg.system.file_lock import hold_folder


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr(file_lock, "SECONDS_TO_WAIT", 0.0)


def hold(folder, **more):
    return hold_folder(folder, command="autoseg_test", remedy="Wait for it.", **more)


def test_a_folder_is_held_once_and_free_again_after(tmp_path):
    with hold(tmp_path):
        with pytest.raises(LockedError) as refused, hold(tmp_path):
            pytest.fail("held twice")
        owner = f"another autoseg_test (process {os.getpid()} on {socket.gethostname()})"
        assert str(refused.value) == f"{tmp_path}: {owner} works on it. Wait for it."
    with hold(tmp_path):
        pass


def test_an_error_inside_is_raised_as_it_is_and_frees_the_folder(tmp_path):
    with pytest.raises(OSError, match="inside"), hold(tmp_path):
        raise OSError("inside")
    with hold(tmp_path):
        pass


def test_a_shared_folder_is_held_by_several_and_by_none_alone(tmp_path):
    with hold(tmp_path, is_shared=True), hold(tmp_path, is_shared=True), pytest.raises(LockedError), hold(tmp_path):
        pytest.fail("held alone")
    with hold(tmp_path), pytest.raises(LockedError), hold(tmp_path, is_shared=True):
        pytest.fail("shared what is held alone")


def test_another_name_is_another_lock(tmp_path):
    with hold(tmp_path), hold(tmp_path, name=".lock-1"):
        assert (tmp_path / ".lock-1").exists()


def test_who_waits_a_moment_has_it_when_it_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(file_lock, "SECONDS_TO_WAIT", 10.0)
    with hold(tmp_path):
        waiting = threading.Thread(target=lambda: hold(tmp_path).__enter__())
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_killed_owner_has_nothing_even_where_its_child_has_the_file_open(tmp_path):
    """A worker process inherits the lock; it ends with its parent."""
    program = (
        "import os, sys, time; from pathlib import Path; from autoseg.system.file_lock import hold_folder\n"
        "from autoseg.system.resources import end_with_parent\n"
        "with hold_folder(Path(sys.argv[1]), command='it', remedy=''):\n"
        "    parent = os.getpid()\n"
        "    if os.fork() == 0: end_with_parent(parent); print('held', flush=True)\n"
        "    time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=rf"another it \(process {owner.pid} on"), hold(tmp_path):
        pytest.fail("held twice")
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.read()  # until the child has ended too
    with hold(tmp_path):
        pass


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[1]",
        '{"command": "it"}',
        '{"command": "it", "process": "x", "host": "h"}',
        b"\xff\xfe".decode("latin1"),
    ],
)
def test_without_a_note_the_owner_is_another_run(tmp_path, note):
    with hold(tmp_path):
        (tmp_path / ".lock").write_bytes(note.encode("latin1"))
        with pytest.raises(LockedError, match="another run works on it"), hold(tmp_path):
            pytest.fail("held twice")


def test_an_owner_that_has_ended_is_not_named(tmp_path):
    """Of several that share a folder, the last one's note stands there."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with hold(tmp_path, is_shared=True):
        note = {"command": "it", "process": ended.pid, "host": socket.gethostname()}
        (tmp_path / ".lock").write_text(json.dumps(note))
        with pytest.raises(LockedError, match="another run works on it"), hold(tmp_path):
            pytest.fail("held twice")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_an_error_that_says_so(tmp_path, monkeypatch, code):
    def flock(_handle, _kind):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(UsageError, match=r"\.lock cannot be locked: .*The file system has no locks; choose"),
        hold(tmp_path),
    ):
        pytest.fail("held")


def test_a_folder_that_is_none_or_whose_lock_is_a_link_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere/\.lock cannot be written: No such file"), hold(tmp_path / "nowhere"):
        pytest.fail("held")
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(UsageError, match="symbolic links"), hold(tmp_path):
        pytest.fail("held")
    assert (tmp_path / "mine.txt").read_text() == "mine"
