"""The tour on two tiny trainings: what it leaves behind, and that it continues."""

import json
from pathlib import Path

import numpy as np
import pytest
from skimage import io as pixels

from autoseg.cli import demo as command
from autoseg.demo import tour
from autoseg.demo.phantoms import PHANTOM_ORGANS
from autoseg.demo.tour import SYNTHETIC, TourResult, TourSettings, run_tour
from autoseg.errors import UsageError
from autoseg.evaluation.report import Evaluation
from autoseg.io.image import read_header

SHORT = TourSettings(
    num_train=4,
    num_unseen=2,
    seed=5,
    plan_settings=(
        "training.steps_per_epoch=1",
        "inference.mirror_axes=[]",
        "inference.window_overlap=0",
        "network.refiner_channels=[4,8]",
        "network.feature_channels=16",
    ),
)
MINUTES = 0.01


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> TourResult:
    return run_tour(tmp_path_factory.mktemp("tour") / "demo", device="cpu", max_minutes=MINUTES, settings=SHORT)


@pytest.mark.slow
def test_run_tour_leaves_maps_on_the_scans_grid_pictures_and_an_evaluation(done: TourResult) -> None:
    scans = sorted((done.folder / "unseen" / "images").iterdir())
    assert [scan.name for scan in scans] == ["ct_005.nii.gz", "mri_006.nii.gz"]
    for scan in scans:
        assert read_header(done.folder / "predictions" / scan.name) == read_header(scan)
    assert [picture.name for picture in done.pictures] == ["ct_005.png", "mri_006.png", "overview.png"]
    assert all(np.ptp(pixels.imread(picture)) > 200 for picture in done.pictures)
    assert sorted(path.name for path in (done.folder / "pictures").iterdir()) == sorted(
        path.name for path in done.pictures
    )
    assert list(done.evaluation.names.values()) == list(PHANTOM_ORGANS)
    assert not done.evaluation.has_errors
    stored = json.loads((done.folder / "evaluation.json").read_text())
    assert stored["overall"]["dice"]["mean"] == done.evaluation.mean_dice


@pytest.mark.slow
def test_run_tour_trains_on_no_unseen_case(done: TourResult) -> None:
    splits = json.loads((done.folder / "run" / "splits.json").read_text())
    trained = {case for fold in splits for part in fold.values() for case in part}
    assert trained == {"ct_001", "mri_002", "ct_003", "mri_004"}


@pytest.mark.slow
def test_run_tour_again_makes_nothing_again_and_comes_to_the_same(
    done: TourResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tour, "write_phantom_dataset", lambda *_args, **_named: pytest.fail("phantoms made again"))
    steps = (done.folder / "run" / "fold_all" / "metrics.jsonl").read_text()
    again = run_tour(done.folder, device="cpu", max_minutes=MINUTES, settings=SHORT)
    assert (done.folder / "run" / "fold_all" / "metrics.jsonl").read_text() == steps
    assert again.evaluation.to_json() == done.evaluation.to_json()


def test_run_tour_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(UsageError, match="holds something else"):
        run_tour(tmp_path, settings=SHORT)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_run_tour_demo_of_other_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(json.dumps({"about": SYNTHETIC, "num_train": 3}))
    with pytest.raises(UsageError, match="other settings"):
        run_tour(tmp_path, settings=SHORT)


def test_demo_command_says_that_data_is_synthetic_and_where_pictures_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, object]] = []

    def fake(folder: Path, **named: object) -> TourResult:
        calls.append(named)
        return TourResult(folder, Evaluation(cases=(), names={1: "liver"}, tolerance_mm=1.0), (), seconds=90.0)

    monkeypatch.setattr(tour, "run_tour", fake)
    assert command.main(["-o", str(tmp_path / "here"), "--device", "cpu", "--max-minutes", "2"]) == 0
    printed = capsys.readouterr().out
    assert calls == [{"device": "cpu", "max_minutes": 2.0}]
    assert "synthetic" in printed
    assert f"{tmp_path}/here/pictures" in printed
    assert "1.5 minutes" in printed


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_demo_command_impossible_minutes_exit_2(minutes: str, tmp_path: Path) -> None:
    assert command.main(["-o", str(tmp_path / "here"), f"--max-minutes={minutes}"]) == 2
    assert not (tmp_path / "here").exists()
