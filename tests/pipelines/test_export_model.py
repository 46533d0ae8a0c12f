import nibabel as nib
import numpy as np
import pytest
import torch

import autoseg
from autoseg.cli.predict import main as predict
from autoseg.cli.train import main as train
from autoseg.config.plans import ComponentFilter, Reason
from autoseg.errors import CheckpointError, UsageError
from autoseg.network.build import build_network
from autoseg.network.weights.model_file import load_model, save_model


@pytest.fixture
def run(tiny_plans, tmp_path):
    """Give a run folder with two trained folds, which differ."""
    for fold in range(2):
        torch.manual_seed(fold)
        plans = tiny_plans(2)
        save_model(build_network(plans).eval(), plans, tmp_path / "run" / f"fold_{fold}" / "model.safetensors")
    return tmp_path / "run"


@pytest.fixture
def image(rng):
    return nib.Nifti1Image(rng.normal(size=(20, 24, 6)).astype(np.float32), np.eye(4))


def probabilities(model, image, fold=None):
    predictor = autoseg.load_predictor(model, device="cpu", fold=fold)
    return autoseg.predict(image, predictor, uncertainty=True).uncertainty


def test_the_exported_file_predicts_as_the_folder_does(run, image, tmp_path, capsys):
    assert train([str(run), "--export", str(tmp_path / "mine.safetensors")]) == 0
    assert "2 models are in" in capsys.readouterr().out
    both = probabilities(run, image)
    np.testing.assert_array_equal(probabilities(tmp_path / "mine.safetensors", image), both)
    for fold in ("0", "1"):
        assert not np.array_equal(probabilities(run, image, fold=fold), both)


def test_one_fold_is_asked_for_by_its_number(run, image, tmp_path, capsys):
    nib.save(image, tmp_path / "scan.nii.gz")
    arguments = ["-m", str(run), "-i", str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert predict([*arguments, "--fold", "1"]) == 0
    labels = np.asarray(nib.load(tmp_path / "out" / "scan.nii.gz").dataobj)
    expected = autoseg.predict(image, run / "fold_1", device="cpu").labels
    np.testing.assert_array_equal(labels, expected)
    assert predict([*arguments, "--fold", "7"]) == 2
    assert "has no trained fold '7'; it has: 0, 1" in capsys.readouterr().err


def test_a_name_that_is_no_model_file_or_no_place_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        autoseg.export_model(run, tmp_path / "mine.zip")
    with pytest.raises(CheckpointError, match="Train first"):
        autoseg.export_model(tmp_path, tmp_path / "mine.safetensors")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError, match="cannot be written"):
        autoseg.export_model(run, tmp_path / "file" / "mine.safetensors")


def test_the_exported_plan_is_that_of_the_fold_that_saw_most_validations(run, image, tmp_path):
    chosen = (ComponentFilter(organ="organ 1", min_volume_ml=1e5),)  # removes all of it
    _, plans = load_model(run / "fold_1" / "model.safetensors")
    plans = plans.model_copy(
        update={
            "inference": plans.inference.model_copy(update={"component_filter": chosen}),
            "reasons": {"inference.component_filter": Reason(rule="best", facts={"num_cases": 7})},
        }
    )
    save_model(load_model(run / "fold_1" / "model.safetensors")[0], plans, run / "fold_1" / "model.safetensors")
    autoseg.export_model(run, tmp_path / "mine.safetensors")
    for model in (run, tmp_path / "mine.safetensors"):
        assert autoseg.load_predictor(model, device="cpu").plans.inference.component_filter == chosen
    assert autoseg.export_model(run, tmp_path / "one.safetensors", fold="0") == 1
    assert autoseg.load_predictor(tmp_path / "one.safetensors", device="cpu").plans.inference.component_filter == ()
