"""A disk that fills up: the run ends and says so, what was there stays, and the same command goes on later."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli import evaluate, plan, train
from autoseg.pipelines.resume_log import LOG_NAME

pytestmark = pytest.mark.fault("disk-full")
USAGE = namedtuple("USAGE", "total used free")


@pytest.fixture
def full_for(monkeypatch):
    """Let the disk be full for files and folders of this name: they never come to take it. None frees it again."""
    real = Path.replace

    def fill(name):
        def replace(self, target):
            if Path(target).name == name:
                raise OSError(errno.ENOSPC, "No space left on device", str(self))
            return real(self, target)

        monkeypatch.setattr(Path, "replace", replace if name else real)

    return fill


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def in_a_process(work):
    """Run in a forked process and return its exit code."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


PLAN_FILES = ("dataset_report.json", "fingerprint.json", "plans.json", "splits.json", "good_1")


def test_plan_ends_whichever_file_finds_no_room_and_goes_on_later(make_dataset, command, full_for, tmp_path):
    root, run = make_dataset(), tmp_path / "run"
    arguments = ("plan", root, "-o", run, "--num-workers", 1, "--on-bad", "skip")
    for name in PLAN_FILES:
        shutil.rmtree(run, ignore_errors=True)
        full_for(name)
        planned = command(*arguments)
        assert planned.code == 2, (name, planned.text)
        place = run / "preprocessed" if name == "good_1" else run
        assert f"{place} cannot be written: No space left on device. Free space there" in planned.text
        assert "Traceback" not in planned.text and "left out" not in planned.text
        assert not (run / "splits.json").exists() and not list(run.rglob(".writing-*"))
    before = contents(run)
    full_for(None)
    assert command(*arguments).code == 0
    assert {path: before[path] for path in before if path.parent.name == "good_0"}.items() <= contents(run).items()
    assert len(list(run.glob("preprocessed/*/case.json"))) == 3


CASE_FILES = ("good_1.nii.gz", "good_1.png", "good_1.json")
RUN_FILES = ("labels.json", "statistics.csv", "report.html", "run.json")


def test_predict_ends_whichever_file_finds_no_room_and_keeps_what_is_finished(
    make_dataset, model_file, command, full_for, tmp_path
):
    scans, out = make_dataset() / "imagesTr", tmp_path / "out"
    arguments = ("predict", "-m", model_file, "-i", scans, "-o", out)
    for name in (*CASE_FILES, *RUN_FILES):
        shutil.rmtree(out, ignore_errors=True)
        full_for(name)
        predicted = command(*arguments)
        assert predicted.code == 2, (name, predicted.text)
        assert "No space left on device. Free space there or choose another place." in predicted.text
        assert str(out) in predicted.text and "Traceback" not in predicted.text
        assert not list(out.rglob(".writing-*")) and not (out / "run.json").exists()
        if name in CASE_FILES:
            assert "good_1: " in predicted.text
            assert sorted(path.name for path in out.glob("*/good_*")) == ["good_0.json", "good_0.png"]
            assert [path.name for path in out.glob("good_*")] == ["good_0.nii.gz"]
            assert b"good_1" not in (out / LOG_NAME).read_bytes()
    full_for(None)
    again = command(*arguments)
    assert again.code == 0 and "3 of 3 cases predicted (3 of them by an earlier run)" in again.text


def test_predict_whose_resume_log_finds_no_room_claims_nothing(
    make_dataset, model_file, command, tmp_path, monkeypatch
):
    """The error comes when the line is flushed to the disk, as a full network disk tells it."""
    scans, out = make_dataset() / "imagesTr", tmp_path / "out"
    arguments = ("predict", "-m", model_file, "-i", scans, "-o", out)
    real = os.fsync

    def fsync(handle):
        if Path(f"/proc/self/fd/{handle}").readlink().name == LOG_NAME:
            os.truncate(handle, os.fstat(handle).st_size - 20)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    predicted = command(*arguments)
    assert predicted.code == 2 and f"good_0: {out} cannot be written: No space left" in predicted.text
    assert not list(out.rglob("good_*"))
    monkeypatch.undo()
    again = command(*arguments)
    assert again.code == 0 and "3 of 3 cases predicted;" in again.text


def test_export_and_evaluation_leave_what_was_there(model_file, full_for, save_scan, tmp_path, monkeypatch, capfd):
    (tmp_path / "fold_all").mkdir()
    shutil.copy(model_file, tmp_path / "fold_all" / "model.safetensors")
    save_scan(tmp_path / "labels" / "a.nii.gz", np.ones((2, 3, 4), np.uint8))
    exported, evaluated = tmp_path / "mine.safetensors", tmp_path / "evaluation.json"
    works = {
        exported: lambda: train.main([str(tmp_path), "--export", str(exported)]),
        evaluated: lambda: evaluate.main([str(tmp_path / "labels")] * 2 + ["-o", str(evaluated)]),
    }
    earlier = '{"rules": [], "tolerance_mm": 1, "cases": []}'  # an evaluation, which may be written over
    for file, work in works.items():
        file.write_text(earlier)
        full_for(file.name)
        assert work() == 2
        expected = f"{file} cannot be written: No space left on device. Free space there or choose another place."
        assert expected in capfd.readouterr().err
        assert file.read_text() == earlier and not list(tmp_path.glob(".writing-*"))
        full_for(None)
        assert work() == 0 and file.read_bytes() != earlier.encode()


@pytest.mark.parametrize("most_bytes", [300, 2000])
def test_files_that_are_cut_off_while_they_are_written_are_absent(
    make_dataset, model_file, command, tmp_path, capfd, most_bytes
):
    """The system itself refuses to write on, in the middle of the file."""
    root, run, exported = make_dataset(), tmp_path / "run", tmp_path / "mine.safetensors"

    def limited(work):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        return work()

    code = in_a_process(lambda: limited(lambda: plan.main([str(root), "-o", str(run), "--device", "cpu"])))
    assert code == 2 and "File too large" in capfd.readouterr().err
    assert not list(run.rglob(".writing-*")) and not (run / "splits.json").exists()
    assert all(path.stat().st_size < most_bytes for path in run.rglob("*"))
    models = shutil.copytree(model_file.parent, tmp_path / "models")
    code = in_a_process(lambda: limited(lambda: train.main([str(models), "--export", str(exported)])))
    assert code == 2 and f"{exported} cannot be written: File too large" in capfd.readouterr().err
    assert not exported.exists() and not list(tmp_path.glob(".writing-*"))
    predicted = ("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out")
    code = in_a_process(lambda: limited(lambda: command(*predicted).code))
    assert code == 2 and not list((tmp_path / "out").rglob("good_*.nii.gz"))
    assert command(*predicted).code == command("plan", root, "-o", run).code == 0


def test_too_little_room_is_a_warning_before_the_work(make_dataset, model_file, command, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: USAGE(100, 99, 1))
    root = make_dataset()
    planned = command("plan", root, "-o", tmp_path / "run", "--num-workers", 1)
    assert planned.code == 0 and "preprocessing 3 cases takes at least 0.0 GiB, and 0.0 GiB are free" in planned.text
    predicted = command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out")
    assert predicted.code == 0 and "the cases will take about 1.7 MiB, and 0.0 MiB are free" in predicted.text
    again = command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out")
    assert again.code == 0 and "are free" not in again.text


def test_a_full_disk_behind_the_terminal_is_reported(make_dataset):
    """As with `autoseg_plan DATASET --check > FILE`."""
    command = [sys.executable, "-m", "autoseg.cli.plan", str(make_dataset(1)), "--check"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == 2
    words = "autoseg_plan: the output cannot be written: No space left on device. Free space there"
    assert ended.stderr.startswith(words) and ended.stderr.count("\n") == 1
