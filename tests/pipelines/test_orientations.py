"""Every output of a prediction lies where its scan lies, whatever the order and direction of the file's axes.

The network is one that can be followed by hand: it says "organ" where the image is bright. So nibabel, SimpleITK and
the statistics must find the organ on the very voxels that are bright.
"""

import csv
import itertools
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from autoseg.inference.predictor import Predictor
from autoseg.network.build import build_network
from autoseg.network.weights.model_file import save_model
from autoseg.pipelines.predict import predict_files

ORIENTATIONS = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SPACING_RAS_MM = (1.0, 1.5, 3.0)
SHAPE_RAS = (14, 12, 6)


def name_of(permutation, signs) -> str:
    """Name the world axis, and its direction, of each axis of the file: "x+z-y+"."""
    return "".join("xyz"[axis] + "-+"[sign > 0] for axis, sign in zip(permutation, signs, strict=True))


def bright_box() -> np.ndarray:
    """Draw a box with a corner of its own on each side, indexed along the patient's axes, RAS+."""
    array = np.zeros(SHAPE_RAS, np.float32)
    array[2:9, 3:6, 1:4] = 1
    array[2:4, 3:9, 1] = 1
    array[8, 5, 4] = 1
    return array


def brightness(images, organs, **_rest):
    middle = images[:, images.shape[1] // 2, None]
    return SimpleNamespace(logits=torch.cat([torch.zeros_like(middle), *(middle - 0.5 for _ in organs)], dim=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_plans):
    """Write the same patient in 48 files, and predict them all."""
    folder = tmp_path_factory.mktemp("orientations")
    (folder / "scans").mkdir()
    for permutation, signs in ORIENTATIONS:
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis, (world, sign) in enumerate(zip(permutation, signs, strict=True)):
            affine[world, axis] = sign * SPACING_RAS_MM[world]
        affine[:3, 3] = (-7, 11, 40)
        flips = tuple(slice(None, None, sign) for sign in signs)
        array = bright_box().transpose(permutation)[flips]
        nib.save(nib.Nifti1Image(array, affine), folder / "scans" / f"{name_of(permutation, signs)}.nii.gz")
    spacing = SPACING_RAS_MM[::-1]
    plans = tiny_plans(1, data={"target_spacing_zyx_mm": spacing, "crop_to_nonzero": False})
    save_model(build_network(plans).eval(), plans, folder / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        predictor = Predictor((brightness,), plans, (0,), torch.device("cpu"))
        patch.setattr("autoseg.pipelines.prediction_request.load_predictor", lambda *_args, **_facts: predictor)
        also = ("uncertainty", "probabilities", "seg.nrrd", "masks")
        run = predict_files(folder / "scans", folder / "model.safetensors", folder / "out", device="cpu", also=also)
    assert len(run.cases) == 48 and not run.failed
    return folder


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_every_output_lies_on_its_scan(folder, permutation, signs):
    name = name_of(permutation, signs)
    scan = nib.load(folder / "scans" / f"{name}.nii.gz")
    bright = np.asarray(scan.dataobj) > 0
    (mask,) = (folder / "out" / "masks" / name).iterdir()
    for path in (folder / "out" / f"{name}.nii.gz", mask):
        labels = nib.load(path)
        np.testing.assert_array_equal(labels.affine, scan.affine)
        np.testing.assert_array_equal(np.asarray(labels.dataobj), bright)
        assert nib.aff2axcodes(labels.affine) == nib.aff2axcodes(scan.affine)
    unsure = nib.load(folder / "out" / "uncertainty" / f"{name}.nii.gz")
    np.testing.assert_array_equal(unsure.affine, scan.affine)
    assert len(np.unique(np.asarray(unsure.dataobj)[bright])) == 1

    (probability,) = (folder / "out" / "probabilities" / name).iterdir()
    percent = nib.load(probability)
    np.testing.assert_array_equal(percent.affine, scan.affine)
    np.testing.assert_array_equal(np.asarray(percent.dataobj) > 50, bright)

    seen = sitk.ReadImage(str(folder / "scans" / f"{name}.nii.gz"))
    for path in (folder / "out" / f"{name}.nii.gz", folder / "out" / f"{name}.seg.nrrd"):
        labels = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(labels) > 0, sitk.GetArrayFromImage(seen) > 0)
        for get in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(getattr(labels, get)(), getattr(seen, get)(), atol=1e-5)


def test_the_patient_is_the_same_in_all_of_them(folder):
    expected = None
    for permutation, signs in ORIENTATIONS:
        image = nib.as_closest_canonical(nib.load(folder / "out" / f"{name_of(permutation, signs)}.nii.gz"))
        labels = np.asarray(image.dataobj)
        expected = labels if expected is None else expected
        np.testing.assert_array_equal(labels, expected)
    with (folder / "out" / "statistics.csv").open(newline="") as table:
        volumes = {row["volume_ml"] for row in csv.DictReader(table)}
    assert len(volumes) == 1


def test_the_pictures_of_all_of_them_show_the_same(folder):
    from PIL import Image

    pictures = {
        np.asarray(Image.open(folder / "out" / "preview" / f"{name_of(*one)}.png")).tobytes() for one in ORIENTATIONS
    }
    assert len(pictures) == 1
