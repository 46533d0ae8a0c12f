import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

import autoseg
from autoseg.errors import GeometryError, UsageError
from autoseg.network.build import build_network
from autoseg.network.weights.model_file import save_model
from autoseg.pipelines.predict import predict_files

AFFINE = np.array([[0, -1.0, 0, 5], [0, 0, 2.5, -7], [-1.0, 0, 0, 9], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def model(tiny_plans, tmp_path_factory):
    torch.manual_seed(0)
    plans = tiny_plans(2)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(build_network(plans).eval(), plans, path)
    return path


@pytest.fixture
def scan(rng, tmp_path):
    path = tmp_path / "scans" / "one.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(rng.normal(size=(20, 24, 6)).astype(np.float32), AFFINE), path)
    return path


def test_an_image_in_memory_gives_what_its_file_gives(model, scan, tmp_path):
    predict_files(scan, model, tmp_path / "out", device="cpu")
    expected = np.asarray(nib.load(tmp_path / "out" / "one.nii.gz").dataobj)
    image = nib.load(scan)
    for one in (image, str(scan), (np.asarray(image.dataobj), image.affine)):
        prediction = autoseg.predict(one, model, device="cpu")
        np.testing.assert_array_equal(prediction.labels, expected)
        assert prediction.names == {1: "organ 0", 3: "organ 1"} and prediction.uncertainty is None
    prediction = autoseg.predict(sitk.ReadImage(str(scan)), model, device="cpu")
    np.testing.assert_array_equal(prediction.labels, expected.transpose(2, 1, 0))
    for organ in prediction.statistics:
        assert organ.num_voxels == (expected == organ.value).sum()


def test_a_prediction_is_saved_on_the_grid_of_its_image(model, scan, tmp_path):
    prediction = autoseg.predict(nib.load(scan), model, device="cpu")
    prediction.save(tmp_path / "saved.nii.gz")
    saved = nib.load(tmp_path / "saved.nii.gz")
    np.testing.assert_array_equal(np.asarray(saved.dataobj), prediction.labels)
    np.testing.assert_allclose(saved.affine, AFFINE)


def test_uncertainty_is_what_the_winner_leaves_to_the_others(model, scan):
    predictor = autoseg.load_predictor(model, device="cpu")
    prediction = autoseg.predict(scan, predictor, uncertainty=True)
    unsure = prediction.uncertainty
    assert unsure.shape == prediction.labels.shape and unsure.dtype == np.float32
    assert 0 < unsure.max() <= 2 / 3 + 1e-2  # of three maps, the largest has a third at least
    np.testing.assert_array_equal(prediction.labels, autoseg.predict(scan, predictor).labels)


def test_one_predictor_serves_many_images_and_its_plan_stays(model, scan):
    predictor = autoseg.load_predictor(model, organs=["organ 1"], device="cpu")
    prediction = autoseg.predict(scan, predictor, settings=["inference.window_overlap=0.25"])
    assert prediction.names == {3: "organ 1"} and set(np.unique(prediction.labels)) <= {0, 3}
    assert predictor.plans.inference.window_overlap == 0.5
    with pytest.raises(UsageError, match="organs"):
        autoseg.predict(scan, predictor, organs=["organ 0"])
    with pytest.raises(UsageError, match="only inference"):
        autoseg.predict(scan, predictor, settings=["network.refiner_stride=2"])


def test_channels_are_a_list_on_one_grid(tiny_plans, rng, tmp_path):
    plans = tiny_plans(1, num_channels=2)
    save_model(build_network(plans).eval(), plans, tmp_path / "model.safetensors")
    one, other = (rng.normal(size=(20, 20, 3)) for _ in range(2))
    prediction = autoseg.predict([(one, np.eye(4)), (other, np.eye(4))], tmp_path / "model.safetensors", device="cpu")
    assert prediction.labels.shape == (20, 20, 3)
    with pytest.raises(GeometryError, match="channel 0 and channel 1 differ in spacing"):
        autoseg.predict(
            [(one, np.eye(4)), (other, np.diag([2.0, 2, 2, 1]))], tmp_path / "model.safetensors", device="cpu"
        )
