"""Unusual names, paths that are not files, inputs and outputs that cannot be written."""

import errno
import json
import os
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from damage import nifti, packed
from small_data import ORGANS, draw_image, draw_labels

from autoseg.errors import CheckpointError
from autoseg.inference.model_loading import find_model_files
from autoseg.pipelines.resume_log import ResumeLog
from autoseg.training.logging.metrics_log import read_metrics

NOT_UTF8 = os.fsdecode(b"\xff\xfe")
UNUSUAL_NAMES = (
    "two words",
    "-o",
    "--help",
    "日本 Leber ü",
    "two\nlines",
    "red \x1b[31m text",
    "back\\slash",
    "100%s %(name)s {0}",
    "'quotes\" & <b>",
    "right\u202eleft",
    NOT_UTF8,
)


def shown(name):
    """Give a name as it may be printed."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def write_cases(root: Path, names) -> Path:
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI"}, "labels": ORGANS}))
    for number, name in enumerate(names):
        (root / "imagesTr" / f"{name}_0000.nii.gz").write_bytes(packed(nifti(draw_image(number))))
        (root / "labelsTr" / f"{name}.nii.gz").write_bytes(packed(nifti(draw_labels())))
    return root


@pytest.fixture
def unusual(tmp_path):
    """Give a dataset of unusual names, two bad cases with such names among them."""
    root = write_cases(tmp_path / "data", UNUSUAL_NAMES)
    for name in ("bad\nname", f"bad {NOT_UTF8}"):
        for path in (root / "imagesTr" / f"{name}_0000.nii.gz", root / "labelsTr" / f"{name}.nii.gz"):
            path.write_bytes(b"")
    return root


@pytest.mark.fault("unusual-names")
def test_unusual_names_are_planned_and_predicted_and_printed_escaped(command, unusual, tmp_path, model_file):
    planned = command("plan", unusual, "-o", tmp_path / "run", "--num-workers", 1, "--on-bad", "skip")
    assert planned.code == 3, planned.text
    folds = json.loads((tmp_path / "run" / "splits.json").read_text(encoding="utf-8"))
    assert {name for fold in folds for part in fold.values() for name in part} == set(UNUSUAL_NAMES)
    stored = {path.name for path in (tmp_path / "run" / "preprocessed").iterdir() if not path.name.startswith(".")}
    assert stored == set(UNUSUAL_NAMES)
    predicted = command(
        "predict", "-m", model_file, "-i", unusual / "imagesTr", "-o", tmp_path / "out", "--also", "masks"
    )
    assert predicted.code == 3, predicted.text
    written = {path.name.removesuffix(".nii.gz") for path in (tmp_path / "out").glob("*.nii.gz")}
    assert written == set(UNUSUAL_NAMES)
    run = {
        case["case_id"]: case
        for case in json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["cases"]
    }
    assert {name for name, case in run.items() if case["is_done"]} == set(map(shown, UNUSUAL_NAMES))
    for text in (planned.text, predicted.text):
        assert all(line.isprintable() for line in text.split("\n"))
        assert "bad\\nname_0000.nii.gz is empty (0 bytes). Copy or download it again" in text
        assert "bad \\udcff\\udcfe_0000.nii.gz is empty" in text
    again = command("predict", "-m", model_file, "-i", unusual / "imagesTr", "-o", tmp_path / "out", "--also", "masks")
    assert again.code == 3 and f"{len(UNUSUAL_NAMES)} of them by an earlier run" in again.text


@pytest.mark.fault("unusual-names")
def test_a_plan_of_unusual_names_is_trained(command, unusual, tmp_path):
    overlay = tmp_path / "small.json"
    small = {"training": {"epochs": 1, "steps_per_epoch": 1, "batch_slices": 1, "num_folds": 2}}
    overlay.write_text(json.dumps(small))
    root = write_cases(tmp_path / "few", ("two\nlines", NOT_UTF8, "-o"))
    planned = command("plan", root, "-o", tmp_path / "run", "--num-workers", 1, "--overlay", overlay)
    assert planned.code == 0, planned.text
    trained = command("train", tmp_path / "run", "--fold", 0)
    assert trained.code == 0, trained.text
    assert all(line.isprintable() for line in trained.text.split("\n"))
    summary = json.loads((tmp_path / "run" / "fold_0" / "validation" / "summary.json").read_text(encoding="utf-8"))
    folds = json.loads((tmp_path / "run" / "splits.json").read_text(encoding="utf-8"))
    assert set(summary["cases"]) == set(folds[0]["validation"])


@pytest.mark.fault("unusual-names")
def test_paths_with_unusual_names_are_taken_from_the_command_line(command, tmp_path, model_file, monkeypatch):
    root = write_cases(tmp_path / "a folder\nof 日本", ("a", "b"))
    monkeypatch.chdir(tmp_path)
    planned = command("plan", root.name, "-o", "a run ü", "--num-workers", 1)
    assert planned.code == 0, planned.text
    (tmp_path / "-scan.nii.gz").write_bytes(packed(nifti(draw_image(0))))
    predicted = command("predict", "-m", model_file, "-i", "./-scan.nii.gz", root / "imagesTr", "-o", "./-out\n")
    assert predicted.code == 0, predicted.text
    assert len(list((tmp_path / "-out\n").glob("*.nii.gz"))) == 3
    assert "-out\\n; open" in predicted.text


@pytest.mark.fault("unusual-names")
def test_a_name_that_is_too_long_is_a_bad_case(command, model_file, tmp_path):
    root = write_cases(tmp_path / "data", ("a", "y" * 240))
    planned = command("plan", root, "-o", tmp_path / "run", "--num-workers", 1, "--on-bad", "skip")
    assert planned.code == 3 and "its name has 240 bytes; expected at most 200" in planned.text
    predicted = command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out")
    assert predicted.code == 3 and "Rename its files." in predicted.text
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


KINDS = {
    "folder": ("is a folder; expected a file", "Name the file inside it"),
    "dangling": ("is a link to a file that does not exist", "Check the path"),
    "circle": ("cannot be reached: Too many levels of symbolic links", "Check the path"),
    "pipe": ("is a pipe, socket or device; expected a regular file", "Copy its content into one"),
    "device": ("is a pipe, socket or device; expected a regular file", "Copy its content into one"),
    "inside_a_file": ("is a folder; expected a file", "Name the file inside it"),
}


def make_kind(path: Path, kind: str) -> None:
    match kind:
        case "folder":
            path.mkdir()
        case "dangling":
            path.symlink_to(path.parent / "nowhere.nii.gz")
        case "circle":
            path.symlink_to(path)
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "inside_a_file":
            path.symlink_to("/proc/self")


@pytest.fixture
def irregular(tmp_path):
    """Give a dataset each kind of path of which stands once for an image and once for a label map."""
    names = [f"{kind}_{what}" for kind in KINDS for what in ("image", "label")]
    root = write_cases(tmp_path / "data", ["good_0", "good_1", *names])
    for kind in KINDS:
        image, label = root / "imagesTr" / f"{kind}_image_0000.nii.gz", root / "labelsTr" / f"{kind}_label.nii.gz"
        for path in (image, label):
            path.unlink()
            make_kind(path, kind)
    return root


@pytest.fixture
def watchdog():
    """End the test run, rather than wait for ever, where a pipe is opened."""
    timer = threading.Timer(120, os._exit, (99,))
    timer.start()
    yield
    timer.cancel()


@pytest.mark.fault("no-regular-file")
def test_paths_that_are_no_regular_files_are_refused_and_nothing_waits(
    command, irregular, tmp_path, model_file, watchdog
):
    arguments = ("plan", irregular, "-o", tmp_path / "run", "--num-workers", 1)
    stopped, planned = command(*arguments), command(*arguments, "--on-bad", "skip")
    predicted = command("predict", "-m", model_file, "-i", irregular / "imagesTr", "-o", tmp_path / "out")
    assert (stopped.code, planned.code, predicted.code) == (4, 3, 3)
    report = json.loads((tmp_path / "run" / "dataset_report.json").read_text(encoding="utf-8"))
    run = {
        case["case_id"]: case
        for case in json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["cases"]
    }
    for kind, (fault, remedy) in KINDS.items():
        for what, file in (("image", f"{kind}_image_0000.nii.gz"), ("label", f"{kind}_label.nii.gz")):
            case_id = f"{kind}_{what}"
            (message,) = (problem["message"] for problem in report["problems"] if problem["case_id"] == case_id)
            for words in (file, fault, remedy):
                assert words in message and words in stopped.text
        assert not run[f"{kind}_image"]["is_done"] and run[f"{kind}_label"]["is_done"]
        for words in (f"{kind}_image_0000.nii.gz", fault, remedy):
            assert words in run[f"{kind}_image"]["message"] and words in predicted.text
    folds = json.loads((tmp_path / "run" / "splits.json").read_text(encoding="utf-8"))
    assert {name for fold in folds for part in fold.values() for name in part} == {"good_0", "good_1"}
    assert run["good_0"]["is_done"] and (tmp_path / "out" / "good_0.nii.gz").is_file()


@pytest.mark.fault("no-regular-file")
@pytest.mark.parametrize("name", ["dataset.json", "table.csv", "model.safetensors"])
def test_a_pipe_in_place_of_another_input_is_refused(command, tmp_path, model_file, watchdog, name):
    root = write_cases(tmp_path / "data", ("a",))
    if name == "dataset.json":
        (root / name).unlink()
        os.mkfifo(root / name)
        outcome = command("plan", root, "-o", tmp_path / "run")
        assert outcome.code == 4 and "dataset.json is a pipe, socket or device" in outcome.text
        return
    os.mkfifo(tmp_path / name)
    model, scans = (tmp_path / name, root) if name.startswith("model") else (model_file, tmp_path / name)
    outcome = command("predict", "-m", model, "-i", scans, "-o", tmp_path / "out")
    assert outcome.code in (2, 4) and name in outcome.text


@pytest.mark.fault("no-regular-file")
def test_a_pipe_in_place_of_a_file_that_autoseg_wrote_is_not_waited_for(tmp_path, watchdog):
    for name in ("cases.jsonl", "metrics.jsonl", "fold_0/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    assert ResumeLog(tmp_path).find("a", key="b") is None
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    with pytest.raises(CheckpointError):
        find_model_files(tmp_path)


def state_of(folder: Path):
    """Give name, content and times of everything below a folder."""
    return {
        path.relative_to(folder): (path.lstat().st_mtime_ns, path.lstat().st_mode, path.is_file() and path.read_bytes())
        for path in [folder, *sorted(folder.rglob("*"))]
    }


@pytest.mark.fault("read-only-input")
def test_inputs_are_never_written(command, tmp_path, model_file, monkeypatch):
    root = write_cases(tmp_path / "data", ("a", "b", "bad"))
    (root / "imagesTr" / "bad_0000.nii.gz").write_bytes(b"")
    for path in (*root.rglob("*"), root):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state_of(root)
    refuse_to_write_below(root, monkeypatch, errno.EROFS)  # the mode alone does not keep an administrator from writing
    planned = command("plan", root, "-o", tmp_path / "run", "--num-workers", 1, "--on-bad", "skip")
    predicted = command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out")
    assert (planned.code, predicted.code) == (3, 3), planned.text + predicted.text
    assert "bad_0000.nii.gz is empty (0 bytes). Copy or download it again" in planned.text + predicted.text
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]
    monkeypatch.undo()
    assert state_of(root) == before
    for path in (*root.rglob("*"), root):
        path.chmod(0o755)


@pytest.mark.fault("read-only-input")
def test_no_prediction_is_written_over_files_that_are_not_its_own(make_dataset, command, model_file, tmp_path):
    root = make_dataset()
    before = {path.name: path.read_bytes() for path in (root / "labelsTr").iterdir()}
    refused = command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", root / "labelsTr")
    assert refused.code == 2 and "no prediction of autoseg's wrote it. Choose another folder." in refused.text
    assert {path.name: path.read_bytes() for path in (root / "labelsTr").iterdir()} == before
    arguments = ("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out", "--also", "uncertainty")
    assert command(*arguments).code == 0
    inputs = tmp_path / "out" / "uncertainty"
    refused = command("predict", "-m", model_file, "-i", inputs, "-o", tmp_path / "out")
    assert refused.code == 2 and "inputs are never overwritten" in refused.text and len(list(inputs.iterdir())) == 3
    assert command(*arguments).code == 0


@pytest.mark.fault("read-only-input")
def test_only_an_evaluation_is_overwritten_by_an_evaluation(make_dataset, command, tmp_path):
    labels = make_dataset() / "labelsTr"
    mine = tmp_path / "mine.json"
    mine.write_text('{"labels": {"background": 0, "liver": 1}}')
    refused = command("evaluate", labels, labels, "--names", mine, "-o", mine)
    assert refused.code == 2 and "it is not overwritten. Choose another name." in refused.text
    assert json.loads(mine.read_text())["labels"]["liver"] == 1
    for _ in range(2):
        assert command("evaluate", labels, labels, "-o", tmp_path / "evaluation.json").code == 0


def refuse_to_write_below(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Have the calls that make or change files fail below a folder, as the system has them fail."""
    real_open, real_mkdir = os.open, os.mkdir

    def is_below(path: object) -> bool:
        return isinstance(path, str | os.PathLike) and Path(os.path.abspath(path)).is_relative_to(folder)  # noqa: PTH100

    def refuse(path: object) -> None:
        raise OSError(code, os.strerror(code), os.fspath(path))  # type: ignore[call-overload]

    def open_file(path, flags, *arguments, **named):
        if is_below(path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return real_open(path, flags, *arguments, **named)

    def make_folder(path, *arguments, **named):
        if is_below(path):
            refuse(path)
        return real_mkdir(path, *arguments, **named)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "mkdir", make_folder)


def forbid_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have any look at a voxel fail the test."""

    def never(*_arguments, **_named):
        raise AssertionError("a scan was read before the output was probed")

    for place in (
        "planning.fingerprint.extract.scan_case",
        "pipelines.case_steps.read_case",
        "pipelines.train.train_fold",
    ):
        monkeypatch.setattr(f"autoseg.{place}", never)


@pytest.mark.fault("unwritable-output")
@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("below_a_file", "Not a directory"),
        ("a_file", "File exists"),
        ("proc", "No such file or directory"),
        ("read_only", "Read-only file system"),
        ("full", "No space left on device"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "predict"])
def test_an_output_that_cannot_be_written_is_refused_before_any_scan_is_read(
    command, tmp_path, model_file, monkeypatch, place, fault, verb
):
    root = write_cases(tmp_path / "data", ("a", "b"))
    (tmp_path / "file").write_bytes(b"mine")
    output = {"below_a_file": tmp_path / "file" / "out", "a_file": tmp_path / "file", "proc": Path("/proc/out")}
    folder = output.get(place, tmp_path / "out")
    if place in ("read_only", "full"):
        folder.mkdir()
        refuse_to_write_below(folder, monkeypatch, errno.EROFS if place == "read_only" else errno.ENOSPC)
    forbid_the_work(monkeypatch)
    if verb == "plan":
        outcome = command("plan", root, "-o", folder, "--num-workers", 1)
    else:
        outcome = command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", folder)
    assert outcome.code == 2, outcome.text
    assert fault in outcome.text and folder.name in outcome.text and "hoose another" in outcome.text
    assert "Traceback" not in outcome.text and (tmp_path / "file").read_bytes() == b"mine"
    if place in ("read_only", "full"):
        assert list(folder.iterdir()) == []


@pytest.mark.fault("unwritable-output")
@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC])
def test_a_run_folder_that_cannot_be_written_is_refused_before_training(command, tmp_path, monkeypatch, code):
    root = write_cases(tmp_path / "data", ("a", "b", "c"))
    assert command("plan", root, "-o", tmp_path / "run", "--num-workers", 1).code == 0
    before = state_of(tmp_path / "run")
    refuse_to_write_below(tmp_path / "run", monkeypatch, code)
    forbid_the_work(monkeypatch)
    outcome = command("train", tmp_path / "run", "--fold", 0)
    assert outcome.code == 2, outcome.text
    assert os.strerror(code) in outcome.text and str(tmp_path / "run") in outcome.text
    assert "ree space" in outcome.text or "hoose another" in outcome.text
    monkeypatch.undo()
    assert state_of(tmp_path / "run") == before


@pytest.mark.fault("unwritable-output")
def test_one_file_that_cannot_be_written_fails_its_case_alone(command, tmp_path, model_file):
    root = write_cases(tmp_path / "data", ("a", "b"))
    (tmp_path / "out" / "a.nii.gz").mkdir(parents=True)  # where the label map of a is to go
    outcome = command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out")
    assert outcome.code == 3, outcome.text
    assert "out/a.nii.gz cannot be written: Is a directory" in outcome.text
    assert nib.load(tmp_path / "out" / "b.nii.gz").shape == draw_image(0).shape[::-1]
    cases = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["cases"]
    assert [case["is_done"] for case in cases] == [False, True]
    assert not list((tmp_path / "out").rglob(".writing-*")) and np.prod(draw_image(0).shape) == 2880
