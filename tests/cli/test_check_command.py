import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from autoseg.cli.plan import main
from autoseg.planning.fingerprint import extract
from autoseg.system.atomic_files import read_json

ONE = ("--num-workers", "1")


@pytest.fixture
def dataset(tmp_path):
    """Write three small scans."""
    root = tmp_path / "data"
    for number in range(3):
        label = np.zeros((12, 10, 6), dtype=np.uint8)
        label[3:7, 3:7, 2:5] = 1
        image = np.random.default_rng(number).normal(100, 10, label.shape).astype(np.float32)
        for folder, name, array in (("imagesTr", f"case_{number}_0000", image), ("labelsTr", f"case_{number}", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"{name}.nii.gz")
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def scanned(monkeypatch, tmp_path):
    """Give the ids of the cases that were read up to now, in whatever process."""
    ids = tmp_path / "scanned.txt"
    original = extract.scan_case

    def scan(case, *, dataset):
        with ids.open("a") as file:
            file.write(f"{case.case_id}\n")
        return original(case, dataset=dataset)

    monkeypatch.setattr(extract, "scan_case", scan)
    return lambda: ids.read_text().split() if ids.exists() else []


def spoil(dataset, name="case_1"):
    label = np.full((12, 10, 6), 9, dtype=np.uint8)
    nib.save(nib.Nifti1Image(label, np.eye(4)), dataset / "labelsTr" / f"{name}.nii.gz")


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_check_without_a_run_folder_writes_nothing(dataset, tmp_path, capsys, scanned):
    before = files_of(tmp_path)
    assert main([str(dataset), "--check", *ONE]) == 0
    assert "3 of 3 cases can be used." in capsys.readouterr().out and len(scanned()) == 3
    (tmp_path / "scanned.txt").unlink()
    assert files_of(tmp_path) == before
    spoil(dataset)
    assert main([str(dataset), "--check", *ONE]) == 4
    assert "case_1  label holds 9 (720 voxels)" in capsys.readouterr().err and len(scanned()) == 3
    assert main([str(dataset), "--check", "--on-bad", "skip", *ONE]) == 3
    assert "case_1  label holds 9 (720 voxels)" in capsys.readouterr().out


def test_a_check_into_a_folder_writes_the_report_and_the_plan_there_reads_nothing_again(
    dataset, tmp_path, capsys, scanned
):
    spoil(dataset)
    run = tmp_path / "run"
    words = [str(dataset), "-o", str(run), *ONE]
    assert main([*words, "--check"]) == 4
    captured = capsys.readouterr()
    assert f"report    {run / 'dataset_report.html'}" in captured.out and "label holds 9" in captured.err
    assert main([*words, "--check", "--on-bad", "skip"]) == 3
    assert files_of(run).keys() == {"dataset_report.json", "dataset_report.html", "dataset_cache.jsonl", ".lock"}
    content = read_json(run / "dataset_report.json")
    assert content["cases"] == {"case_0": "good", "case_1": "error", "case_2": "good"} and content["num_used"] == 2
    assert content["facts"]["case_0"]["organs"] == [{"name": "liver", "volume_ml": 0.048, "num_components": 1}]
    page = (run / "dataset_report.html").read_text()
    assert page.index("case_1") < page.index("case_0") and "label holds 9 (720 voxels)" in page
    assert str(tmp_path) not in page + (run / "dataset_report.json").read_text()
    assert str(tmp_path) not in (run / "dataset_cache.jsonl").read_text()
    assert len(scanned()) == 3
    assert main([*words, "--on-bad", "skip", "--device", "cpu"]) == 3
    assert len(scanned()) == 3 and (run / "plans.json").is_file()


def test_a_check_that_finds_nothing_usable_still_writes_its_report(dataset, tmp_path, capsys):
    for number in range(3):
        spoil(dataset, f"case_{number}")
    run = tmp_path / "run"
    assert main([str(dataset), "--check", "-o", str(run), *ONE]) == 4
    assert "report    " in capsys.readouterr().out
    content = read_json(run / "dataset_report.json")
    assert content["cases"] == {f"case_{number}": "error" for number in range(3)}
    assert "none of 3 cases of data can be used" in content["problems"][0]["message"]
    (dataset / "dataset.json").write_text("{")
    assert main([str(dataset), "--check", "-o", str(run), *ONE]) == 4
    assert "dataset.json cannot be read as JSON" in (run / "dataset_report.html").read_text()
    assert str(tmp_path) not in (run / "dataset_report.html").read_text()


def test_a_check_into_the_dataset_is_refused(dataset, capsys):
    before = files_of(dataset)
    assert main([str(dataset), "--check", "-o", str(dataset / "run")]) == 2
    assert "never written to" in capsys.readouterr().err
    assert files_of(dataset) == before


def test_a_check_loads_neither_torch_nor_what_writes_pages(dataset):
    """What measures is loaded by the processes that read scans, and not at all where nothing is to be read."""
    code = (
        "import sys; from autoseg.cli.plan import main; code = main(sys.argv[1:]); "
        "print(sorted({'torch', 'jinja2', 'SimpleITK', 'scipy.ndimage'} & set(sys.modules))); sys.exit(code)"
    )
    for _ in range(2):
        words = [sys.executable, "-c", code, str(dataset), "--check", *ONE]
        result = subprocess.run(words, capture_output=True, text=True, timeout=60, env=dict(os.environ))
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == "[]"
