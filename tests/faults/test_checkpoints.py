"""Training states and models that are damaged, of something else, or that the disk has no room for."""

import errno
import os
import resource
from pathlib import Path

import pytest
import torch
from damage import flip_middle

from autoseg.config.overrides import apply_settings
from autoseg.config.plans import read_plans, write_plans
from autoseg.network.weights.model_file import load_model
from autoseg.training import trainer
from autoseg.training.checkpointing import checkpoint_policy, checkpoints
from autoseg.training.logging import metrics_log
from autoseg.training.validation import validate_case

pytestmark = pytest.mark.usefixtures("no_picture")


@pytest.fixture
def planned(tiny_run):
    return tiny_run("training.steps_per_epoch=2")


@pytest.fixture
def trained(planned, command):
    """Give a fold's folder after 2 epochs of 2 steps, and its model."""
    outcome = command("train", planned, "--epochs", 2)
    assert outcome.code == 0, outcome.text
    fold = planned / "fold_all"
    return fold, (fold / "model.safetensors").read_bytes()


@pytest.mark.fault("corrupt-checkpoint")
@pytest.mark.parametrize(("damage", "fault"), [(flip_middle, "is damaged"), (Path.unlink, "is missing")])
def test_training_continues_from_the_state_before_a_lost_one_to_the_same_model(trained, command, damage, fault):
    fold, model = trained
    damage(fold / "resume.pt")
    (fold / "model.safetensors").unlink()
    outcome = command("train", fold.parent, "--epochs", 2)
    assert outcome.code == 0
    assert f"{fold / 'resume.pt'} {fault}" in outcome.text and f"{fold / 'resume_previous.pt'}" in outcome.text
    assert (fold / "model.safetensors").read_bytes() == model


@pytest.mark.fault("corrupt-checkpoint")
def test_training_stops_where_both_states_are_damaged_and_keeps_them(trained, command):
    fold, _ = trained
    for path in (fold / "resume.pt", fold / "resume_previous.pt"):
        path.write_bytes(b"")
    outcome = command("train", fold.parent, "--epochs", 2)
    assert outcome.code == 2
    assert "CheckpointError" in outcome.text and f"Delete the folder {fold}" in outcome.text
    assert (fold / "resume.pt").exists() and (fold / "resume_previous.pt").exists()


@pytest.mark.fault("corrupt-checkpoint")
def test_a_damaged_model_is_refused_and_the_same_command_writes_it_again(trained, command, monkeypatch, tmp_path):
    fold, model = trained
    flip_middle(fold / "model.safetensors")
    scans = fold.parents[1] / "data" / "imagesTr"
    outcome = command("predict", "-m", fold.parent, "-i", scans, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert f"{fold / 'model.safetensors'} is damaged" in outcome.text
    assert "Give the same autoseg_train command again: it writes the model again from resume.pt" in outcome.text
    monkeypatch.setattr(trainer, "train_step", None)  # nothing is trained for it
    assert command("train", fold.parent, "--epochs", 2).code == 0
    assert (fold / "model.safetensors").read_bytes() == model
    (fold / "model.safetensors").unlink()
    assert command("predict", "-m", fold.parent, "-i", scans, "-o", tmp_path / "out").code == 2
    assert command("train", fold.parent, "--epochs", 2).code == 0
    assert (fold / "model.safetensors").read_bytes() == model


@pytest.mark.fault("other-checkpoint")
def test_a_state_of_another_plan_other_labels_or_another_version_is_an_error_with_the_difference(trained, command):
    fold, _ = trained
    plans = read_plans(fold.parent / "plans.json")
    states = {name: (fold / name).read_bytes() for name in ("resume.pt", "resume_previous.pt")}
    write_plans(apply_settings(plans, ["training.learning_rate=0.5"]), fold.parent / "plans.json")
    outcome = command("train", fold.parent, "--epochs", 2)
    assert outcome.code == 2 and "was written under another plan (training.learning_rate: " in outcome.text
    assert f"Delete the folder {fold} to start this fold again" in outcome.text

    first, second = plans.data.organs
    spoken = first.model_copy(update={"sentences": ("another text",)})
    write_plans(
        plans.model_copy(update={"data": plans.data.model_copy(update={"organs": (spoken, second)})}),
        fold.parent / "plans.json",
    )
    outcome = command("train", fold.parent, "--epochs", 2)
    assert outcome.code == 2 and "another plan (data.organs.0.sentences" in outcome.text

    write_plans(plans, fold.parent / "plans.json")
    content = torch.load(fold / "resume.pt", weights_only=True)
    checkpoints._write_sealed({**content, "version": 9}, fold / "resume.pt")
    outcome = command("train", fold.parent, "--epochs", 2)
    assert outcome.code == 2 and "resume.pt has version 9; this autoseg reads 1" in outcome.text
    assert (fold / "resume_previous.pt").read_bytes() == states["resume_previous.pt"]


@pytest.fixture
def full_disk():
    """Limit the size of files, as a full disk does: the kernel refuses to write more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(num_bytes=1_000_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.fault("disk-full")
def test_a_disk_that_is_full_at_the_beginning_stops_training_before_the_work(planned, command, full_disk, monkeypatch):
    monkeypatch.setattr(trainer, "train_step", None)
    full_disk()
    outcome = command("train", planned, "--epochs", 1)
    assert outcome.code == 2
    assert f"{planned / 'fold_all' / 'resume.pt'} cannot be written: File too large" in outcome.text
    assert [path.name for path in (planned / "fold_all").iterdir() if path.name != ".lock"] == []


@pytest.mark.fault("disk-full")
def test_a_disk_that_is_full_for_a_while_costs_a_save_and_one_at_the_end_an_error(planned, command, monkeypatch):
    """The first save in the middle finds no room, nor does the last."""
    real, fails = checkpoints._write_all, []

    def write(file, data):
        if fails and fails[0] and file.tell() > 10**6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, data)

    def save_then_note(real_save):
        def save(*arguments, **named):
            fails[:] = fails[1:]
            return real_save(*arguments, **named)

        return save

    monkeypatch.setattr(checkpoints, "_write_all", write)
    monkeypatch.setattr(checkpoint_policy, "save_state", save_then_note(checkpoint_policy.save_state))
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    fold = planned / "fold_all"
    fails[:] = [False, False, True, False, True]  # the first leaves the list; then: step 0, 2, 4, the end
    outcome = command("train", planned, "--epochs", 2)
    assert outcome.code == 0, outcome.text
    assert f"step 2 is not saved: {fold / 'resume.pt'} cannot be written: No space left on device" in outcome.text
    assert torch.load(fold / "resume.pt", weights_only=True)["step"] == 4
    model = (fold / "model.safetensors").read_bytes()

    fails[:] = [False, True, True, True]  # step 6, again at the end
    outcome = command("train", planned, "--epochs", 3)
    assert outcome.code == 2
    assert f"{fold / 'resume.pt'} cannot be written: No space left on device. Free space" in outcome.text
    assert torch.load(fold / "resume.pt", weights_only=True)["step"] == 4
    assert (fold / "model.safetensors").read_bytes() == model
    assert list(fold.glob(".writing-*")) == []

    fails.clear()
    outcome = command("train", planned, "--epochs", 3)
    assert outcome.code == 0 and "continuing at step 4" in outcome.text
    load_model(fold / "model.safetensors")


@pytest.mark.fault("disk-full")
def test_a_model_that_finds_no_room_leaves_the_one_before_and_a_lost_record_stops_nothing(
    trained, command, full_disk, monkeypatch
):
    fold, model = trained
    state = (fold / "resume.pt").read_bytes()
    full_disk()
    outcome = command("train", fold.parent, "--epochs", 2)
    assert outcome.code == 2
    assert f"{fold / 'model.safetensors'} cannot be written: File too large." in outcome.text
    assert (fold / "model.safetensors").read_bytes() == model and (fold / "resume.pt").read_bytes() == state

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    full_disk(resource.RLIM_INFINITY)
    monkeypatch.setattr(trainer, "append_metrics", full)
    outcome = command("train", fold.parent, "--epochs", 3)
    assert outcome.code == 0 and "the record of step 6 is lost ([Errno 28] No space left on device)" in outcome.text
    assert [record["step"] for record in metrics_log.read_metrics(fold / "metrics.jsonl")] == [2, 4]


@pytest.mark.fault("disk-full")
def test_a_disk_that_is_full_when_the_validation_is_written_is_said_and_the_same_command_goes_on(
    planned, command, monkeypatch
):
    def full(path, *_args, **_named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(validate_case, "write_label_map", full)
        outcome = command("train", planned, "--epochs", 1, "--fold", 0)
    assert outcome.code == 2
    assert "OutputError: " in outcome.text and "cannot be written: No space left on device" in outcome.text
    assert command("train", planned, "--epochs", 1, "--fold", 0).code == 0
    assert (planned / "fold_0" / "validation" / "summary.json").exists()
