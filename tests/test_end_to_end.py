"""A dataset of phantoms through all four commands, as a user would run them; only smaller and shorter."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg.cli.evaluate import main as evaluate
from autoseg.cli.plan import main as plan
from autoseg.cli.predict import main as predict
from autoseg.cli.train import main as train
from autoseg.demo.phantoms import PHANTOM_ORGANS, write_phantom_dataset
from autoseg.system.atomic_files import read_json
from autoseg.training.logging.metrics_log import read_metrics

NUM_TRAIN, NUM_UNSEEN = 4, 2
CPU = ("--device", "cpu")
SMALL = (
    "data.target_spacing_zyx_mm=[12,5,5]",
    "network.image_size_px=32",
    "network.window_rows_px=48",
    "network.window_columns_px=64",
    "network.feature_channels=16",
    "network.refiner_channels=[8,12,16]",
    "training.steps_per_epoch=6",
    "training.batch_slices=4",
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Write the phantoms, plan and train one epoch: a folder with dataset, unseen and run."""
    folder = tmp_path_factory.mktemp("work")
    write_phantom_dataset(folder, num_train=NUM_TRAIN, num_test=NUM_UNSEEN, seed=1)
    settings = [word for setting in SMALL for word in ("--set", setting)]
    dataset, run = str(folder / "dataset"), str(folder / "run")
    assert plan([dataset, "-o", run, *CPU, "--memory-gib", "4", "--num-workers", "1", *settings]) == 0
    assert train([run, "--epochs", "1", *CPU]) == 0
    return folder


def losses_of(run: Path) -> list[float]:
    return [record["losses"]["total"] for record in read_metrics(run / "fold_all" / "metrics.jsonl")]


def test_plan_writes_a_whole_run_folder_with_the_settings_in_it(work):
    run = work / "run"
    assert {"dataset_report.json", "fingerprint.json", "plans.json", "splits.json"} <= {p.name for p in run.iterdir()}
    plans = read_json(run / "plans.json")
    assert plans["network"]["backbone"] == "nano" and plans["network"]["window_columns_px"] == 64
    assert [organ["name"] for organ in plans["data"]["organs"]] == list(PHANTOM_ORGANS)
    assert len(plans["overrides"]) == len(SMALL)
    assert len(list((run / "preprocessed").glob("*/image.b2nd"))) == NUM_TRAIN


def test_train_again_does_nothing_and_for_longer_goes_on_and_the_loss_falls(work, capsys):
    run = work / "run"
    first, model = losses_of(run), (run / "fold_all" / "model.safetensors").read_bytes()
    assert len(first) == 1
    assert train([str(run), "--epochs", "1", *CPU]) == 0
    assert "continuing at step 6" in capsys.readouterr().err
    assert losses_of(run) == first and (run / "fold_all" / "model.safetensors").read_bytes() == model
    assert train([str(run), "--epochs", "4", *CPU]) == 0
    out, err = capsys.readouterr()
    assert "continuing at step 6" in err and "24 steps in" in out
    losses = losses_of(run)
    assert len(losses) == 4 and losses[0] == first[0]
    assert losses[-1] < 0.95 * losses[0]
    assert (run / "fold_all" / "progress.png").stat().st_size > 10_000


def test_predict_writes_label_maps_on_the_exact_grids_and_evaluate_measures_them(work, tmp_path, capsys):
    scans, out = work / "unseen" / "images", tmp_path / "predictions"
    assert predict(["-m", str(work / "run"), "-i", str(scans), "-o", str(out), *CPU]) == 0
    assert f"{NUM_UNSEEN} of {NUM_UNSEEN} cases predicted" in capsys.readouterr().out
    names = sorted(path.name for path in scans.iterdir())
    assert len(names) == NUM_UNSEEN
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [
            *names,
            *(".lock", "cases.jsonl", "labels.ctbl", "labels.json", "labels.tsv", "preview", "report.html"),
            *("run.json", "statistics.csv"),
        ]
    )
    for name in names:
        scan, labels = nib.load(scans / name), nib.load(out / name)
        assert labels.shape == scan.shape and np.array_equal(labels.affine, scan.affine)
        assert labels.header.get_zooms() == scan.header.get_zooms()
        assert np.array_equal(labels.header["quatern_b"], scan.header["quatern_b"])
        assert set(np.unique(labels.dataobj)) <= {0, *PHANTOM_ORGANS.values()}
    assert read_json(out / "labels.json")["labels"] == PHANTOM_ORGANS

    references, report = work / "unseen" / "labels", tmp_path / "evaluation.json"
    assert evaluate([str(out), str(references), "-o", str(report)]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in PHANTOM_ORGANS)
    assert report.stat().st_size > 500
    (out / names[0]).unlink()
    assert evaluate([str(out), str(references)]) == 3, "a prediction that is missing is a miss, not a smaller table"


def test_a_run_with_the_memory_goes_the_same_way(work, tmp_path):
    run = tmp_path / "run"
    settings = [word for setting in SMALL for word in ("--set", setting)]
    options = ["-o", str(run), *CPU, "--memory-gib", "4", "--num-workers", "1", "--overlay", "memory"]
    assert plan([str(work / "dataset"), *options, *settings]) == 0
    assert train([str(run), "--fold", "0", "--epochs", "2", *CPU]) == 0
    losses = [record["losses"]["total"] for record in read_metrics(run / "fold_0" / "metrics.jsonl")]
    assert len(losses) == 2 and losses[1] < losses[0]
    scans = work / "unseen" / "images"
    assert predict(["-m", str(run), "-i", str(scans), "-o", str(tmp_path / "out"), *CPU]) == 0
    for scan in scans.iterdir():
        assert nib.load(tmp_path / "out" / scan.name).shape == nib.load(scan).shape


def test_predict_skips_a_broken_scan_and_exits_3(work, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    whole = sorted((work / "unseen" / "images").iterdir())[0]
    (scans / "whole.nii.gz").write_bytes(whole.read_bytes())
    (scans / "broken.nii.gz").write_bytes(whole.read_bytes()[:5000])
    assert predict(["-m", str(work / "run"), "-i", str(scans), "-o", str(tmp_path / "out"), *CPU]) == 3
    assert "broken" in capsys.readouterr().err
    assert (tmp_path / "out" / "whole.nii.gz").is_file() and not (tmp_path / "out" / "broken.nii.gz").exists()
