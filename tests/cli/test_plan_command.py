import contextlib
import hashlib
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from autoseg.cli.plan import main
from autoseg.system.atomic_files import read_json

CPU = ("--device", "cpu", "--memory-gib", "8", "--num-workers", "1")


@pytest.fixture
def dataset(tmp_path):
    """Write four small scans with an organ that the knowledge does not hold."""
    root = tmp_path / "data"
    for number in range(4):
        rng = np.random.default_rng(number)
        label = np.zeros((12, 10, 6), dtype=np.uint8)
        label[3:7, 3:7, 2:5] = 1
        for folder, name, array in (
            ("imagesTr", f"case_{number}_0000", rng.normal(100, 10, label.shape).astype(np.float32)),
            ("labelsTr", f"case_{number}", label),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"{name}.nii.gz")
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "gizmo": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def spoil(dataset):
    label = np.full((12, 10, 6), 9, dtype=np.uint8)
    nib.save(nib.Nifti1Image(label, np.eye(4)), dataset / "labelsTr" / "case_1.nii.gz")


def test_plan_prints_a_summary_and_the_next_command(dataset, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([str(dataset), "-o", str(run), *CPU]) == 0
    out, err = capsys.readouterr()
    assert "cases     4; folds: 4" in out
    assert "organs    gizmo" in out
    assert "1 x 1 x 1 mm (z, y, x), sliced along z" in out
    assert "nano, window 16 x 16 px, batch 16" in out
    assert f"next      autoseg_train {run}" in out
    assert "organ gizmo is not among the known organs" in err


def test_plan_with_a_bad_case_exits_4_or_with_skip_3(dataset, tmp_path, capsys):
    spoil(dataset)
    run = tmp_path / "run"
    assert main([str(dataset), "-o", str(run), *CPU]) == 4
    assert "case_1  label holds 9 (720 voxels)" in capsys.readouterr().err
    assert main([str(dataset), "-o", str(run), "--on-bad", "skip", *CPU]) == 3
    assert "cases     3, 1 left out" in capsys.readouterr().out


def test_check_writes_nothing_and_tells_by_its_exit_code(dataset, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main([str(dataset), "--check"]) == 0
    assert "4 of 4 cases can be used." in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    spoil(dataset)
    assert main([str(dataset), "--check"]) == 4
    assert "3 of 4 cases can be used." in capsys.readouterr().err
    assert main([str(dataset), "--check", "--on-bad", "skip"]) == 3
    assert "label holds 9" in capsys.readouterr().out


def test_explain_reads_the_run_from_either_place(dataset, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([str(dataset), "-o", str(run), "--set", "training.epochs=3", *CPU]) == 0
    capsys.readouterr()
    for words in ([str(run)], ["-o", str(run)], [str(dataset), "-o", str(run)]):
        assert main([*words, "--explain", "network.backbone"]) == 0
        out = capsys.readouterr().out
        assert "network.backbone = nano" in out and "rule: On a CPU" in out
        assert "plan changed by: --set training.epochs=3" in out
    assert main([str(run), "--explain", "network.backbones"]) == 2
    assert "Did you mean network.backbone?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the folder of a dataset"),
        (["a"], "-o RUN is missing"),
        (["a", "./a", "-o", "run"], "a dataset is given twice. Name each folder once."),
        (["--explain", "network"], "--explain needs a planned run"),
        (["a", "-o", "run", "--num-workers", "0"], "--num-workers 0"),
        (["a", "-o", "run", "--memory-gib", "-3"], "--memory-gib -3.0"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_missing(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_is_not_there_exits_4(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "-o", str(tmp_path / "run"), *CPU]) == 4
    assert "does not exist" in capsys.readouterr().err


def test_plan_imports_no_torch(dataset, tmp_path):
    code = (
        "import sys; from autoseg.cli.plan import main; code = main(sys.argv[1:]); "
        "print('torch' in sys.modules); sys.exit(code)"
    )
    words = [str(dataset), "-o", str(tmp_path / "run"), "--num-workers", "1"]
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False"


def test_plan_killed_at_any_moment_and_repeated_gives_the_same_files(dataset, tmp_path):
    """Kill -9 while it works (a kill after its end is no harm either); the repeated run equals the undisturbed one."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main([str(dataset), "-o", str(whole), *CPU]) == 0
    command = [sys.executable, "-m", "autoseg.cli.plan", str(dataset), "-o", str(run), *CPU]
    for seconds in (0.5, 0.8, 1.1):
        with contextlib.suppress(subprocess.TimeoutExpired):  # the time-out kills it with SIGKILL
            subprocess.run(command, capture_output=True, timeout=seconds)
    assert main([str(dataset), "-o", str(run), *CPU]) == 0
    names = ("fingerprint.json", "plans.json", "splits.json", "dataset_report.json")
    assert [read_json(run / name) for name in names] == [read_json(whole / name) for name in names]
    stored = sorted(path.relative_to(whole) for path in whole.rglob("*.b2nd"))
    assert len(stored) == 8
    assert [(run / path).read_bytes() for path in stored] == [(whole / path).read_bytes() for path in stored]


def test_describe_puts_what_a_server_answers_into_the_plan(dataset, tmp_path, capsys, monkeypatch):
    asked = []

    def answer(name, *, modality, server):
        asked.append((name, modality, server.url, server.model, server.key))
        return "The gizmo is a part. It lies in the middle."

    monkeypatch.setattr("autoseg.planning.organ_texts.describe_unknown_organs.ask_description", answer)
    key, run = tmp_path / "key.txt", tmp_path / "run"
    key.write_text("secret\n")
    server = ["--describe", "http://localhost:1/v1", "--describe-model", "small", "--describe-key-file", str(key)]
    assert main([str(dataset), "-o", str(run), *CPU, *server]) == 0
    err = capsys.readouterr().err
    assert asked == [("gizmo", "mri", "http://localhost:1/v1", "small", "secret")]
    assert "gizmo, described by small: The gizmo is a part." in err and "not among the known organs" not in err
    sentences = read_json(run / "plans.json")["data"]["organs"][0]["sentences"]
    assert sentences == ["The gizmo is a part.", "It lies in the middle."]
    assert "secret" not in "".join(path.read_text() for path in run.glob("*.json"))
    assert main([str(dataset), "-o", str(run), *CPU]) == 0
    assert len(asked) == 1 and read_json(run / "plans.json")["data"]["organs"][0]["sentences"] == sentences


def test_describe_without_a_model_or_with_a_missing_key_file_is_a_usage_error(dataset, tmp_path, capsys):
    words = [str(dataset), "-o", str(tmp_path / "run"), *CPU, "--describe", "http://localhost:1/v1"]
    assert main(words) == 2
    assert "--describe-model" in capsys.readouterr().err
    assert main([*words, "--describe-model", "small", "--describe-key-file", str(tmp_path / "no.txt")]) == 2
    assert "no.txt cannot be read" in capsys.readouterr().err


def test_descriptions_from_a_file_reach_the_plan_and_names_that_are_no_organ_are_told(dataset, tmp_path, capsys):
    words, run = tmp_path / "words.json", tmp_path / "run"
    words.write_text(json.dumps({"Gizmo": ["it is odd", "It is 9 mm wide."], "gizmoo": "Not this."}))
    command = [str(dataset), "-o", str(run), *CPU]
    assert main([*command, "--descriptions", str(words)]) == 0
    organ = read_json(run / "plans.json")["data"]["organs"][0]
    assert organ["name"] == "gizmo" and organ["sentences"] == ["It is odd.", "It is 9 mm wide."]
    assert "not among the known organs" not in capsys.readouterr().err
    words.write_text(json.dumps({"gizmoo": "Not this."}))
    assert main([*command, "--descriptions", str(words)]) == 0
    hint = f"--descriptions {words} names 'gizmoo', which is not an organ here. Did you mean 'gizmo'?"
    assert hint in capsys.readouterr().err
    assert hint in (run / "dataset_report.json").read_text()
    assert main([str(dataset), "--check", "--descriptions", str(words)]) == 0
    assert hint in capsys.readouterr().out


@pytest.mark.parametrize("more", [["--check"], ["-o", "run"]])
def test_a_wrong_file_of_descriptions_exits_2_before_any_work(dataset, tmp_path, capsys, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.json").write_text('{"gizmo": 3}')
    for name, message in (("words.json", "'gizmo' has 3"), ("none.json", "none.json does not exist")):
        assert main([str(dataset), *more, "--descriptions", name]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_of_the_hub_are_pinned_once_and_the_same_command_asks_nobody(dataset, tmp_path, capsys, hub):
    hub.files["owner/repo", "weights.pt"] = b"some weights"
    run = tmp_path / "run"
    words = [str(dataset), "-o", str(run), *CPU, "--set", "network.weights=hf://owner/repo/weights.pt"]
    assert main([*words, "--offline"]) == 2 and hub.asked == []
    assert "CheckpointError: hf://owner/repo/weights.pt is not in the hub's cache" in capsys.readouterr().err
    assert main(words) == 0
    before = (run / "plans.json").read_bytes()
    network = read_json(run / "plans.json")["network"]
    assert network["weights"] == f"hf://owner/repo@{hub.revisions['main']}/weights.pt"
    assert network["weights_sha256"] == hashlib.sha256(b"some weights").hexdigest()
    hub.asked.clear()
    assert main(words) == main([*words, "--offline"]) == 0
    assert (run / "plans.json").read_bytes() == before and hub.asked == []
    capsys.readouterr()
    assert main([str(run), "--explain", "network.weights"]) == 0
    assert "hf://owner/repo/weights.pt" in capsys.readouterr().out


def test_a_hub_that_cannot_be_reached_exits_2_with_one_line(dataset, tmp_path, capsys, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    words = [str(dataset), "-o", str(tmp_path / "run"), *CPU, "--set", "network.weights=hf://owner/repo/weights.pt"]
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if line.startswith("autoseg_plan: ")]
    assert lines[-1] == line and "CheckpointError" in line and "cannot be reached" in line and "--offline" in line


def test_offline_and_describe_exclude_each_other(dataset, tmp_path, capsys):
    server = ["--describe", "http://localhost:1/v1", "--describe-model", "small"]
    assert main([str(dataset), "-o", str(tmp_path / "run"), *CPU, "--offline", *server]) == 2
    assert "--offline and --describe: give one of them" in capsys.readouterr().err


def test_planning_without_weights_of_the_hub_does_not_load_its_client(dataset, tmp_path):
    code = (
        "import sys; from autoseg.cli.plan import main; code = main(sys.argv[1:]); "
        "print('huggingface_hub' in sys.modules); sys.exit(code)"
    )
    words = [str(dataset), "-o", str(tmp_path / "run"), *CPU, "--set", "network.weights=/weights/sam2.pt"]
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False"
