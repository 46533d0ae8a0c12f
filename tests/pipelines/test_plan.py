import json
import os
import shutil

import numpy as np
import pytest
from filelock import FileLock

from autoseg.config.plans import read_plans
from autoseg.errors import DatasetError, LockedError, PlanError, UsageError
from autoseg.pipelines import plan as plan_pipeline
from autoseg.pipelines import plan_ranks
from autoseg.pipelines.plan import PlanRequest, plan, run_plan
from autoseg.planning.fingerprint import extract
from autoseg.preprocessing.store import CaseStore
from autoseg.system.atomic_files import read_json

FILES = ("dataset_report.json", "fingerprint.json", "plans.json", "splits.json")


def plan_quickly(root, run, **more):
    return plan(root, run, device="cpu", memory_gib=8, num_workers=1, **more)


def stop(*_args, **_kwargs):
    raise KeyboardInterrupt


def contents(run):
    return {name: (run / name).read_bytes() for name in FILES}


def test_plan_writes_everything_that_training_needs(make_dataset, tmp_path):
    run = tmp_path / "run"
    plans = plan_quickly(make_dataset(4), run)
    assert read_plans(run / "plans.json") == plans
    splits = read_json(run / "splits.json")
    assert sorted(name for fold in splits for name in fold["validation"]) == [f"case_{k:03d}" for k in range(4)]
    store = CaseStore(run / "preprocessed", data_hash=plans.data.hash())
    assert store.case_ids() == [f"case_{k:03d}" for k in range(4)]
    assert store.shape("case_000") == (1, 6, 10, 12)
    assert read_json(run / "dataset_report.json")["num_used"] == 4


def test_plan_again_reads_no_scan_and_changes_no_file(make_dataset, tmp_path, monkeypatch):
    root, run = make_dataset(3), tmp_path / "run"
    first = plan_quickly(root, run)
    before = contents(run)
    monkeypatch.setattr(extract, "scan_case", None)  # calling it would fail
    assert plan_quickly(root, run) == first
    assert contents(run) == before


def test_plan_after_a_changed_label_sees_it(make_dataset, save_nifti, tmp_path):
    root, run = make_dataset(3), tmp_path / "run"
    plan_quickly(root, run)
    label = np.zeros((6, 10, 12), dtype=np.uint8)
    label[5, 9, 11] = 1
    save_nifti(root / "labelsTr" / "case_001.nii.gz", label)
    plan_quickly(root, run)
    facts = read_json(run / "fingerprint.json")["cases"][1]
    assert facts["organs"][0]["num_voxels"] == 1
    assert int(CaseStore(run / "preprocessed").open_labels("case_001")[:].sum()) == 1


@pytest.mark.parametrize("name", FILES)
def test_plan_again_after_a_lost_or_cut_file_gives_the_same_files(make_dataset, tmp_path, name):
    root, run = make_dataset(3), tmp_path / "run"
    plan_quickly(root, run)
    before = contents(run)
    (run / name).write_bytes(before[name][:-20])
    plan_quickly(root, run)
    assert contents(run) == before
    (run / name).unlink()
    plan_quickly(root, run)
    assert contents(run) == before


def test_plan_killed_while_preprocessing_continues_to_the_same_result(make_dataset, tmp_path, monkeypatch):
    root, whole, run = make_dataset(3), tmp_path / "whole", tmp_path / "run"
    plan_quickly(root, whole)
    with monkeypatch.context() as patch:
        patch.setattr(plan_ranks, "preprocess_dataset", stop)
        with pytest.raises(KeyboardInterrupt):
            plan_quickly(root, run)
    assert not (run / "splits.json").exists()
    plan_quickly(root, run)
    assert contents(run) == contents(whole)


def test_plan_changed_and_killed_leaves_no_splits_of_the_old_plan(make_dataset, tmp_path, monkeypatch):
    root, run = make_dataset(3), tmp_path / "run"
    plan_quickly(root, run)
    monkeypatch.setattr(plan_ranks, "preprocess_dataset", stop)
    with pytest.raises(KeyboardInterrupt):
        plan_quickly(root, run, settings=["training.seed=3"])
    assert not (run / "splits.json").exists()


def test_plan_killed_after_the_fingerprint_of_changed_files_measures_the_old_files_again(
    make_dataset, save_nifti, tmp_path, monkeypatch
):
    root, run = make_dataset(3), tmp_path / "run"
    plan_quickly(root, run)
    before = contents(run)
    label = root / "labelsTr" / "case_001.nii.gz"
    kept = tmp_path / "kept"
    shutil.copy2(label, kept)
    save_nifti(label, np.ones((6, 10, 12), dtype=np.uint8))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(plan_pipeline, "use_own_descriptions", stop)
        plan_quickly(root, run)
    assert (run / "fingerprint.json").read_bytes() != before["fingerprint.json"]
    shutil.copy2(kept, label)
    plan_quickly(root, run)
    assert contents(run) == before


def test_plan_keeps_edited_splits_until_the_plan_changes(make_dataset, tmp_path):
    root, run = make_dataset(3), tmp_path / "run"
    plan_quickly(root, run)
    own = [{"train": ["case_000", "case_001"], "validation": ["case_002"]}]
    (run / "splits.json").write_text(json.dumps(own))
    plan_quickly(root, run)
    assert read_json(run / "splits.json") == own
    plan_quickly(root, run, settings=["training.seed=3"])
    assert read_json(run / "splits.json") != own


def test_plan_with_bad_cases_shows_all_of_them_and_stops(make_dataset, save_nifti, tmp_path):
    root, run = make_dataset(4), tmp_path / "run"
    spoil(root, save_nifti)
    with pytest.raises(DatasetError) as caught:
        plan_quickly(root, run)
    text = str(caught.value)
    assert "2 of 4 cases cannot be used" in text and "--on-bad skip" in text
    assert "9 (720 voxels)" in text and "case_001" in text and "case_002" in text
    assert str(root) not in text
    assert read_json(run / "dataset_report.json")["cases"]["case_001"] == "error"
    assert not (run / "plans.json").exists()


def test_plan_skipping_bad_cases_uses_the_good_ones(make_dataset, save_nifti, tmp_path):
    root, run = make_dataset(4), tmp_path / "run"
    spoil(root, save_nifti)
    request = PlanRequest((root,), run, device="cpu", memory_gib=8, on_bad="skip", num_workers=1)
    outcome = run_plan(request)
    assert outcome.skipped == ("case_001", "case_002")
    assert outcome.used == ("case_000", "case_003")
    assert run_plan(request).skipped == outcome.skipped  # also from the saved report
    assert CaseStore(run / "preprocessed").case_ids() == ["case_000", "case_003"]


def test_plan_never_skips_an_error_of_the_whole_dataset(make_dataset, tmp_path):
    root = make_dataset(2, labels={"background": 0, "liver": 1, "spleen": 2})
    with pytest.raises(DatasetError, match="spleen"):
        plan_quickly(root, tmp_path / "run", on_bad="skip")


def spoil(root, save_nifti):
    save_nifti(root / "labelsTr" / "case_001.nii.gz", np.full((6, 10, 12), 9, dtype=np.uint8))
    (root / "imagesTr" / "case_002_0000.nii.gz").write_bytes(b"<html>not found</html>")


def test_plan_keeps_cases_with_the_same_voxels_in_one_fold(make_dataset, tmp_path):
    root, run = make_dataset(4), tmp_path / "run"
    same = (root / "imagesTr" / "case_000_0000.nii.gz").read_bytes()
    (root / "imagesTr" / "case_003_0000.nii.gz").write_bytes(same)
    plans = plan_quickly(root, run)
    folds = [set(fold["validation"]) for fold in read_json(run / "splits.json")]
    assert {"case_000", "case_003"} in folds
    assert plans.training.num_folds == len(folds) == 3


def test_plan_of_one_case_trains_without_validation(make_dataset, tmp_path):
    plans = plan_quickly(make_dataset(1), tmp_path / "run")
    assert plans.training.num_folds == 1
    assert read_json(tmp_path / "run" / "splits.json") == [{"train": ["case_000"], "validation": []}]


def test_plan_of_a_ct_normalizes_by_its_foreground(make_dataset, tmp_path):
    plans = plan_quickly(make_dataset(2, channels=("CT",)), tmp_path / "run")
    (channel,) = plans.data.channels
    assert channel.normalization == "ct"
    assert 100 < channel.clip_low < channel.mean < channel.clip_high < 200


def test_plan_into_the_dataset_is_refused(make_dataset):
    root = make_dataset(1)
    for run in (root, root / "run"):
        with pytest.raises(UsageError, match="never written to"):
            plan_quickly(root, run)
    assert not (root / "run").exists()


def test_plan_while_another_holds_the_folder_is_locked(make_dataset, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".lock"), pytest.raises(LockedError, match=r"run: another run works on it\. Wait"):
        plan_quickly(make_dataset(1), run)


def test_plan_into_a_file_is_a_usage_error(make_dataset, tmp_path):
    (tmp_path / "run").write_text("I am a file")
    with pytest.raises(UsageError, match="run"):
        plan_quickly(make_dataset(1), tmp_path / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_plan_into_a_read_only_folder_is_a_usage_error(make_dataset, tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot be read or written"):
        plan_quickly(make_dataset(1), tmp_path / "run")


def test_plan_with_a_wrong_setting_writes_no_plan(make_dataset, tmp_path):
    with pytest.raises(PlanError, match=r"training\.epochs"):
        plan_quickly(make_dataset(2), tmp_path / "run", settings=["training.epoch=3"])
    assert not (tmp_path / "run" / "plans.json").exists()


@pytest.mark.data
def test_plan_of_real_scans_with_mixed_types_and_ranges(real_data, tmp_path):
    source, root = real_data / "hippocampus_mri", tmp_path / "data"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
        files = sorted((source / folder).glob("*.nii.gz"))[:5]
        assert len(files) == 5
        for path in files:
            shutil.copy2(path, root / folder)
    shutil.copy2(source / "dataset.json", root)
    plans = plan_quickly(root, tmp_path / "run")
    assert [channel.normalization for channel in plans.data.channels] == ["zscore"]
    assert plans.data.target_spacing_zyx_mm == (1.0, 1.0, 1.0)
    assert len(plans.data.organs) == 2
    assert len(CaseStore(tmp_path / "run" / "preprocessed").case_ids()) == 5
