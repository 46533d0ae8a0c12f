import numpy as np
import pytest
import torch

from autoseg.datasets.dataset import CaseFiles
from autoseg.inference.predictor import Predictor
from autoseg.network.build import build_network
from autoseg.pipelines import dry_run
from autoseg.pipelines.dry_run import Estimate, estimate_cases, format_estimates


@pytest.fixture
def predictor(tiny_plans):
    plans = tiny_plans(2, data={"target_spacing_zyx_mm": [3, 1, 1]})
    return Predictor((build_network(plans).eval(),), plans, (0, 1), torch.device("cpu"))


def test_an_estimate_counts_windows_and_bytes_by_hand(predictor, save_scan, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "_time_per_window", lambda _predictor: 2.0)
    monkeypatch.setattr(dry_run, "_peak_bytes", lambda: 1000.0)
    # at the target spacing 4 slices of 48 x 32: two windows of 32 x 32 half over each other
    path = save_scan(tmp_path / "a.nii.gz", np.zeros((6, 24, 64), np.int16), spacing_zyx_mm=(2.0, 2.0, 0.5))
    [one] = estimate_cases(predictor, [CaseFiles("a", (path,), None, "a")])
    voxels = 6 * 24 * 64
    assert one.shape_zyx == (6, 24, 64) and not one.fault
    assert one.seconds == pytest.approx(4 * 2 * 2.0 + voxels * 6e-8 + 0.3)
    assert one.memory_bytes == 1000 + voxels * (2 + 1) + 4 * (32 << 20)
    assert one.disk_bytes == pytest.approx(0.01 * voxels + 600_000)


def test_a_scan_that_cannot_be_read_is_named_and_the_others_are_estimated(predictor, save_scan, tmp_path):
    good = save_scan(tmp_path / "a.nii.gz", np.zeros((6, 24, 64), np.float32))
    bad = tmp_path / "b.nii.gz"
    bad.write_bytes(b"no scan")
    estimates = estimate_cases(
        predictor, [CaseFiles(name[0], (tmp_path / name,), None, name) for name in (bad.name, good.name)]
    )
    assert "is text, not a scan" in estimates[0].fault and estimates[1].seconds > 0 and not estimates[1].fault


def test_the_table_ends_in_sums_and_the_largest_memory():
    gib = 2.0**30
    table = format_estimates(
        [
            Estimate("one", (600, 512, 512), 90.0, 2.5 * gib, 10 * 2**20),
            Estimate("two", (1, 2, 3), 30.0, 1.5 * gib, 20 * 2**20),
            Estimate("bad\x1b", fault="it is cut off"),
        ]
    )
    assert table.splitlines() == [
        "case     voxels (x, y, z)  minutes  memory   disk",
        "one      512 x 512 x 600   1.5      2.5 GiB  10.0 MiB",
        "two      3 x 2 x 1         0.5      1.5 GiB  20.0 MiB",
        "bad\\x1b  it is cut off",
        "2 cases                    2.0      2.5 GiB  30.0 MiB",
    ]
