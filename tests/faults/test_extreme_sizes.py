"""Scans of one slice, of one voxel, smaller than a window, and of 1,500 slices: planned, trained on and predicted.

The memory is bounded by what the network sees at once, whatever the number of slices.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import TINY_OPTIONS, run_command
from small_data import save

from autoseg.network.model import AutosegNetwork
from autoseg.system.atomic_files import read_json

SHAPES_ZYX = {
    "good": (6, 20, 24),
    "many_slices": (1500, 6, 7),
    "one_column": (8, 20, 1),
    "one_voxel": (1, 1, 1),
    "single_slice": (1, 20, 24),
    "tiny": (3, 4, 5),
}
MOST_MORE_MIB = 60  # while 1,500 slices are predicted; it is some 10


def memory_mib(field):
    """Give the memory of this process now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def start_peak():
    """Reset the peak of memory, and return the current use."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mib("VmRSS")


def watch_batches(monkeypatch):
    """Give the list to which each call of the network adds its number of slices."""
    seen, forward = [], AutosegNetwork.forward

    def watched(network, images, *arguments, **facts):
        seen.append(images.shape[0])
        return forward(network, images, *arguments, **facts)

    monkeypatch.setattr(AutosegNetwork, "forward", watched)
    return seen


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sizes") / "data"
    for number, (name, shape) in enumerate(SHAPES_ZYX.items()):
        labels = np.zeros(shape, np.uint8)
        labels[: shape[0] // 2 + 1, : shape[1] // 2 + 1, : shape[2] // 2 + 1] = 1
        labels[-1, -1, -1] = 2
        image = np.random.default_rng(number).normal(100, 10, shape).astype(np.float32) + 40 * labels
        for folder, array in (("images", image), ("labels", labels)):
            save(root / folder / f"{name}.nii.gz", array, np.diag([1.0, 1.0, 3.0, 1.0]))
    (root / "dataset.json").write_text(json.dumps({"channel_names": ["MRI"], "labels": {"liver": 1, "spleen": 2}}))
    return root


@pytest.fixture(scope="module")
def run(root):
    """Plan all sizes as one dataset."""
    run = root.parent / "run"
    settings = [*TINY_OPTIONS, "--set", "training.batch_slices=4", "--set", "training.steps_per_epoch=2"]
    outcome = run_command("plan", root, "-o", run, "--num-workers", 1, *settings)
    assert outcome.code == 0, outcome.text
    return run


@pytest.mark.fault("extreme-sizes")
def test_plan_takes_every_size(run):
    facts = read_json(run / "dataset_report.json")["facts"]
    assert {name: tuple(case["size_zyx"]) for name, case in facts.items()} == SHAPES_ZYX
    cases = {path.name: read_json(path / "case.json") for path in (run / "preprocessed").iterdir()}
    assert cases.keys() == SHAPES_ZYX.keys()


@pytest.mark.fault("extreme-sizes")
def test_train_takes_every_size(run, monkeypatch):
    seen = watch_batches(monkeypatch)
    outcome = run_command("train", run, "--epochs", 1)
    assert outcome.code == 0, outcome.text
    assert max(seen) <= 8  # the batch is 4, a look at a case takes as many as prediction
    records = [json.loads(line) for line in (run / "fold_all" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2]
    assert all(np.isfinite(record["losses"]["total"]) for record in records)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it")
@pytest.mark.fault("extreme-sizes")
def test_predict_takes_every_size_in_bounded_memory(root, make_model, tmp_path, monkeypatch):
    model = make_model(2, inference={"slices_per_batch": 16, "mirror_axes": []})
    first = run_command("predict", "-m", model, "-i", root / "images" / "good.nii.gz", "-o", tmp_path / "first")
    assert first.code == 0, first.text  # all modules are loaded now
    seen = watch_batches(monkeypatch)
    before = start_peak()
    outcome = run_command("predict", "-m", model, "-i", root / "images", "-o", tmp_path / "out")
    more_mib = memory_mib("VmHWM") - before
    assert outcome.code == 0, outcome.text
    assert sum(seen) >= 1500 and max(seen) <= 16
    assert more_mib < MOST_MORE_MIB
    for name, shape in SHAPES_ZYX.items():
        made = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        assert made.shape == shape[::-1]
        assert set(np.unique(np.asarray(made.dataobj))) <= {0, 1, 3}  # the values of the model's organs
