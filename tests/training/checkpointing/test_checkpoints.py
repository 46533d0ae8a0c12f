import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from autoseg.config.overrides import apply_settings
from autoseg.errors import CheckpointError, OutputError
from autoseg.training.checkpointing import checkpoints
from autoseg.training.checkpointing.checkpoints import (
    DamagedStateError,
    has_state,
    load_earlier,
    load_state,
    previous_path,
    save_state,
)
from autoseg.training.state import new_state

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plans(tiny_plans):
    return tiny_plans(1)


@pytest.fixture(scope="module")
def state(plans):
    return new_state(plans, device=CPU)


@pytest.fixture
def two(state, plans, tmp_path):
    """Give the path of the newest of two saved states, of steps 1 and 2."""
    path = tmp_path / "resume.pt"
    for step in (1, 2):
        state.step = step
        save_state(state, plans, path)
    return path


def load(state, plans, path):
    state.step = -1
    load_state(state, plans, path)
    return state.step


def test_the_state_before_is_kept_beside_the_newest(two, state, plans):
    assert sorted(path.name for path in two.parent.iterdir()) == ["resume.pt", "resume_previous.pt"]
    assert torch.load(previous_path(two), weights_only=True)["step"] == 1  # torch's own reader takes the seal
    assert torch.load(two, weights_only=True)["step"] == 2
    assert load(state, plans, two) == 2 and state.saved_step == 2


def test_a_flip_of_any_bit_of_any_byte_is_seen(tmp_path):
    path = tmp_path / "small.pt"
    checkpoints._write_sealed({"plans": "{}", "weights": torch.arange(5.0)}, path)
    assert checkpoints._read_sealed(path)["weights"].tolist() == [0, 1, 2, 3, 4]
    content = path.read_bytes()
    assert len(content) > 500
    for place in range(len(content)):
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << (place % 8)
        path.write_bytes(spoiled)
        with pytest.raises(DamagedStateError, match="damaged"):
            checkpoints._read_sealed(path)
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(DamagedStateError, match="damaged"):
            checkpoints._read_sealed(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(DamagedStateError, match="damaged"):
        checkpoints._read_sealed(path)


def damage(path, how):
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "link to nothing":
        path.symlink_to("nowhere")
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"plans": Trap()}))
    elif how != "missing":
        flipped = content[:5000] + bytes([content[5000] ^ 4]) + content[5001:]
        path.write_bytes({"flipped": flipped, "cut off": content[:-1], "empty": b"", "text": b"no state"}[how])


DAMAGES = ("flipped", "cut off", "empty", "text", "pickle", "missing", "folder", "pipe", "link to nothing")


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


@pytest.mark.parametrize("how", DAMAGES)
def test_where_the_newest_is_damaged_the_one_before_is_taken_and_survives_the_next_save(
    two, state, plans, how, caplog, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    damage(two, how)
    assert load(state, plans, two) == 1
    assert f"{two} " in caplog.text and "Going on from the state before it" in caplog.text
    assert not os.path.lexists(two) and not Path("trapped").exists()
    aside = two.with_name("resume_damaged.pt")
    assert os.path.lexists(aside) == (how != "missing")
    state.step = 3
    save_state(state, plans, two)
    assert load(state, plans, two) == 3
    two.unlink()
    assert load(state, plans, two) == 1  # the good one was not displaced by the damaged one


@pytest.mark.parametrize("how", DAMAGES)
def test_where_both_are_damaged_it_is_an_error_and_nothing_is_touched(two, state, plans, how):
    for path in (two, previous_path(two)):
        damage(path, how)
    before = sorted(path.name for path in two.parent.iterdir())
    with pytest.raises(CheckpointError, match=r"Delete the folder .* to start this fold again") as caught:
        load_state(state, plans, two)
    assert str(two) in str(caught.value)
    assert sorted(path.name for path in two.parent.iterdir()) == before
    assert has_state(two) == (how != "missing")


def test_a_state_of_another_plan_is_an_error_also_where_the_one_before_would_fit(two, state, plans):
    other = apply_settings(plans, ["training.seed=5"])
    state.step = 3
    save_state(state, other, two)
    with pytest.raises(CheckpointError, match=r"another plan .training.seed: 5 there, 0 now"):
        load_state(state, plans, two)
    assert two.exists()
    two.unlink()
    with pytest.raises(CheckpointError, match=r"resume_previous.pt was written under another plan"):
        load_state(state, other, two)


def test_a_sealed_file_of_something_else_is_refused_and_not_executed(two, state, plans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    previous_path(two).unlink()
    checkpoints._write_sealed({"plans": Trap()}, two)
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(state, plans, two)
    assert not Path("trapped").exists()
    torch.load(two, weights_only=False)
    assert Path("trapped").exists(), "the trap is none, so the test says nothing"
    for content in ({}, [1, 2], torch.zeros(2)):
        checkpoints._write_sealed(content, two)
        with pytest.raises(CheckpointError, match="is not a training state"):
            load_state(state, plans, two)


def test_a_full_memory_is_no_damage(two, state, plans, monkeypatch):
    def full(*_args, **_named):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(RuntimeError, match="allocate"):
        load_state(state, plans, two)
    assert two.exists()


def test_load_earlier_takes_the_older_one_or_the_one_that_is_whole(two, state, plans):
    assert load_earlier(state, plans, two) == previous_path(two) and state.step == 1
    previous_path(two).write_bytes(b"")
    assert load_earlier(state, plans, two) == two and state.step == 2
    two.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load_earlier(state, plans, two)


POINTS = ("before", "in the middle", "written", "between the renames")


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_of_a_save_leaves_a_whole_state(two, state, plans, point, monkeypatch):
    """The kill is an error that nobody catches, and no clean-up is done: the folder is as a kill would leave it."""

    class Killed(BaseException):
        pass

    def kill(*_args, **_named):
        raise Killed

    real_write, real_sealed, real_replace = checkpoints._write_all, checkpoints._write_sealed, Path.replace

    def write(file, data):
        if point == "before" or file.tell() > 10**6:
            real_write(file, memoryview(data)[: memoryview(data).nbytes // 2])
            kill()
        real_write(file, data)

    def sealed(content, path):
        real_sealed(content, path)
        kill()

    def replace(self, target):
        real_replace(self, target)
        if Path(target) == previous_path(two):
            kill()

    if point == "written":
        monkeypatch.setattr(checkpoints, "_write_sealed", sealed)
    elif point == "between the renames":
        monkeypatch.setattr(Path, "replace", replace)
    else:
        monkeypatch.setattr(checkpoints, "_write_all", write)
    monkeypatch.setattr(Path, "unlink", lambda *_args, **_named: None)
    state.step = 3
    with pytest.raises(Killed):
        save_state(state, plans, two)
    monkeypatch.undo()
    leftovers = [path for path in two.parent.iterdir() if path.name.startswith(".writing-")]
    assert len(leftovers) == 1
    assert load(state, plans, two) == 2
    assert load_earlier(state, plans, two)


def test_a_full_disk_leaves_both_states_and_says_what_to_do(two, state, plans):
    """The limit of a file's size is a real one: the kernel refuses, torch's writer says "unexpected pos"."""
    contents = {path: path.read_bytes() for path in two.parent.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        with pytest.raises(OutputError, match=r"resume.pt cannot be written: File too large.*choose another place"):
            save_state(state, plans, two)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in two.parent.iterdir()} == contents


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_an_interruption_in_the_middle_of_a_save_stays_one(two, state, plans, signal, monkeypatch):
    """torch would make "unexpected pos" of it."""
    contents = {path: path.read_bytes() for path in two.parent.iterdir()}
    real = checkpoints._write_all

    def write(file, data):
        if file.tell() > 10**6:
            raise signal
        real(file, data)

    monkeypatch.setattr(checkpoints, "_write_all", write)
    with pytest.raises(signal):
        save_state(state, plans, two)
    assert {path: path.read_bytes() for path in two.parent.iterdir()} == contents
