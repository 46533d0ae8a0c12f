import numpy as np
import pytest
import torch

from autoseg.cli.predict import main
from autoseg.network.build import build_network
from autoseg.network.weights.model_file import save_model

CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def model(tiny_plans, tmp_path_factory):
    torch.manual_seed(0)
    plans = tiny_plans(2)
    path = tmp_path_factory.mktemp("run") / "fold_all" / "model.safetensors"
    save_model(build_network(plans).eval(), plans, path)
    return path


@pytest.fixture
def scans(save_scan, rng, tmp_path):
    for name in ("one", "two"):
        save_scan(tmp_path / "scans" / f"{name}.nii.gz", rng.normal(size=(3, 16, 18)).astype(np.float32))
    return tmp_path / "scans"


def words(model, scans, out, *more):
    return ["-m", str(model), "-i", str(scans), "-o", str(out), *CPU, *more]


def test_all_done_exits_0_and_says_where(model, scans, tmp_path, capsys):
    out = tmp_path / "out"
    for place in (model, model.parent, model.parents[1]):
        assert main(words(place, scans, out)) == 0
        told = capsys.readouterr().out
        earlier = "" if place == model else " (2 of them by an earlier run)"  # the same model by another name
        assert told.startswith(f"2 of 2 cases predicted{earlier}; label maps, ") and str(out) in told
    assert sorted(path.name for path in out.iterdir()) == [
        *(".lock", "cases.jsonl", "labels.ctbl", "labels.json", "labels.tsv", "one.nii.gz", "preview", "report.html"),
        *("run.json", "statistics.csv", "two.nii.gz"),
    ]


def test_a_dry_run_tells_of_every_case_and_changes_nothing(model, scans, tmp_path, capsys):
    assert main(words(model, scans, tmp_path / "out", "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["case", "one", "two", "2"]
    assert ("18 x 16 x 3" in lines[1] and "GiB" in lines[-1]) or "MiB" in lines[-1]
    assert not (tmp_path / "out").exists()
    (scans / "page.nii.gz").write_text("<html>not found</html>")
    assert main(words(model, scans, tmp_path / "out", "--dry-run")) == 3
    assert "page.nii.gz is a web page" in capsys.readouterr().out


def test_a_bad_case_exits_3_and_is_named(model, scans, tmp_path, capsys):
    (scans / "page.nii.gz").write_text("<html>not found</html>")
    assert main(words(model, scans, tmp_path / "out")) == 3
    out, err = capsys.readouterr()
    assert "2 of 3 cases predicted" in out
    assert "page.nii.gz is a web page" in err
    assert (tmp_path / "out" / "one.nii.gz").is_file() and not (tmp_path / "out" / "page.nii.gz").exists()


def test_nothing_usable_exits_4(model, tmp_path, capsys):
    (tmp_path / "scans").mkdir()
    assert main(words(model, tmp_path / "scans", tmp_path / "out")) == 4
    assert "holds no .nii.gz, .nii, .nrrd, .mha file and no DICOM series" in capsys.readouterr().err
    (tmp_path / "scans" / "bad.nii.gz").write_bytes(b"")
    assert main(words(model, tmp_path / "scans", tmp_path / "out")) == 4
    assert "None of the 1 cases" in capsys.readouterr().err
    assert main(words(model, tmp_path / "nowhere", tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--organs", "pancreas"], "does not know pancreas. Choose from: organ 0, organ 1"),
        (["--set", "training.epochs=1"], "only inference.* may be changed"),
        (["--set", "inference.overlap=1"], "Did you mean inference.window_overlap?"),
        (["--set", "inference.window_overlap=high"], "window_overlap"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_wrong_usage_exits_2_before_anything_is_written(model, scans, tmp_path, more, message, capsys):
    assert main(words(model, scans, tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_arguments_exit_2_and_help_exits_0(capsys):
    assert main(["-i", "scans"]) == 2
    assert "required" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "3 some cases failed" in capsys.readouterr().out


def test_a_model_that_is_none_or_is_damaged_exits_2(model, scans, tmp_path, capsys):
    assert main(words(tmp_path / "none", scans, tmp_path / "out")) == 2
    assert "Train first" in capsys.readouterr().err
    spoiled = bytearray(model.read_bytes())
    spoiled[-9] ^= 1
    (tmp_path / "spoiled.safetensors").write_bytes(spoiled)
    assert main(words(tmp_path / "spoiled.safetensors", scans, tmp_path / "out")) == 2
    assert "is damaged" in capsys.readouterr().err


def test_names_of_files_cannot_speak_to_the_terminal(model, scans, tmp_path, capsys):
    (scans / "a\x1b[31mred.nii.gz").write_bytes(b"")
    assert main(words(model, scans, tmp_path / "out")) == 3
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\\x1b[31mred" in err
