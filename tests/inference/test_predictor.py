import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

import autoseg.inference.model_loading
import autoseg.inference.predictor
from autoseg.config.plans import ComponentFilter
from autoseg.errors import CheckpointError, UsageError
from autoseg.inference.model_loading import find_model_files, load_predictor
from autoseg.inference.predictor import Predictor
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from autoseg.network.build import build_network
from autoseg.network.weights.model_file import load_models, save_model

CPU = torch.device("cpu")
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def make_scan(affine, shape_zyx):
    """Make a bright box off the middle in each direction; after normalization its voxels alone are above zero."""
    array = np.zeros(shape_zyx, np.float32)
    array[tuple(slice(1, size // 2 - 1) for size in shape_zyx)] = 4
    return Scan(array, ImageGeometry.from_affine(shape_zyx, affine)), array > 2


def make_predictor(plans, network):
    return Predictor(networks=(network,), plans=plans, organs=(0,), device=CPU)


def orient(permutation, signs, spacing_xyz=(1.0, 1.0, 1.0)):
    affine = np.eye(4)
    affine[:3, :3] = 0
    for index, (axis, sign) in enumerate(zip(permutation, signs, strict=True)):
        affine[axis, index] = sign * spacing_xyz[axis]
    affine[:3, 3] = (-20, 30, 7)
    return affine


@pytest.mark.parametrize("slice_axis", ["z", "y", "x"])
def test_prediction_lies_on_the_input_grid_in_all_48_orientations(tiny_plans, brightness_as_logit, slice_axis):
    """At the scan's own spacing nothing is interpolated, so each voxel must come back where it was."""
    plans = tiny_plans(1, data={"target_spacing_zyx_mm": [1, 1, 1], "slice_axis": slice_axis, "crop_to_nonzero": False})
    predictor = make_predictor(plans, brightness_as_logit)
    assert len(ORIENTATIONS) == 48
    for permutation, signs in ORIENTATIONS if slice_axis == "z" else ORIENTATIONS[::7]:
        scan, expected = make_scan(orient(permutation, signs), (7, 10, 12))
        labels = predictor.predict_scans([scan]).labels_zyx
        assert labels.shape == (7, 10, 12)
        assert np.array_equal(labels, expected.astype(labels.dtype)), (permutation, signs)


@pytest.mark.parametrize("shape", [(9, 44, 40), (1, 20, 20), (12, 5, 6)])
def test_prediction_of_an_oblique_scan_with_other_spacing_comes_back_on_its_grid(
    tiny_plans, brightness_as_logit, shape
):
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ orient((1, 0, 2), (-1, 1, -1))[:3, :3] @ np.diag([0.7, 0.8, 2.5])
    plans = tiny_plans(1, data={"target_spacing_zyx_mm": [3, 1, 1], "crop_to_nonzero": False})
    array = np.full(shape, -1.0, np.float32)
    middle = tuple(slice(size // 4, max(1, size - size // 4)) for size in shape)
    array[middle] = 3.0
    scan = Scan(array, ImageGeometry.from_affine(shape, affine))
    labels = make_predictor(plans, brightness_as_logit).predict_scans([scan]).labels_zyx
    assert labels.shape == shape
    assert np.mean((labels == 1) == (array > 1)) > 0.85
    assert (labels == 1).any() and (labels == 0).any()


def test_prediction_of_a_cropped_scan_is_background_outside_and_has_the_datasets_values(
    tiny_plans, brightness_as_logit
):
    array = np.zeros((6, 40, 40), np.float32)
    array[2:5, 10:30, 10:30] = -1
    array[3, 15:20, 15:20] = 5
    scan = Scan(array, ImageGeometry.from_spacing((6, 40, 40), (3.0, 1.0, 1.0)))
    plans = tiny_plans(3)
    labels = Predictor((brightness_as_logit,), plans, (2,), CPU).predict_scans([scan]).labels_zyx
    assert set(np.unique(labels)) == {0, 5}  # the third organ's value
    assert np.array_equal(labels == 5, array == 5)


@pytest.mark.parametrize(("organs", "num_pieces"), [(("organ 0",), 1), ((), 2)])
def test_prediction_removes_specks_of_the_organs_that_the_plan_names(
    tiny_plans, brightness_as_logit, organs, num_pieces
):
    array = np.full((5, 40, 40), -1, np.float32)
    array[1:4, 5:20, 5:20] = 5
    array[3, 30:33, 30:33] = 5
    scan = Scan(array, ImageGeometry.from_spacing(array.shape, (3.0, 1.0, 1.0)))
    plans = tiny_plans(1, data={"target_spacing_zyx_mm": [3, 1, 1], "crop_to_nonzero": False})
    plans = plans.model_copy(
        update={
            "inference": plans.inference.model_copy(
                update={"component_filter": tuple(ComponentFilter(organ=organ, min_fraction=0.1) for organ in organs)}
            )
        }
    )
    labels = make_predictor(plans, brightness_as_logit).predict_scans([scan]).labels_zyx
    assert ndimage.label(labels)[1] == num_pieces
    assert (labels[3, 30:33, 30:33] == 1).all() == (num_pieces == 2)


class FullMemory(torch.nn.Module):
    """Says "organ" where a pixel is bright; more than `most` slices at once are too many, on CUDA any number is."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.sizes, self.moves = most, [], []

    def forward(self, images, organs, **_rest):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("full.\nmore words")
        pixel = images[:, images.shape[1] // 2].unsqueeze(1)
        return SimpleNamespace(logits=torch.cat([torch.zeros_like(pixel), pixel], dim=1))

    def to(self, device):
        self.moves.append(str(device))
        return self

    def cpu(self):
        return self.to("cpu")


def make_bright_scan():
    image = np.full((6, 32, 32), -9, np.float32)
    image[2:4, 8:20, 8:20] = 9
    return Scan(image, ImageGeometry.from_spacing(image.shape, (3.0, 1.0, 1.0)))


@pytest.mark.parametrize(("most", "tried"), [(4, [4]), (3, [4, 2]), (1, [4, 2, 1])])
def test_a_full_memory_makes_batches_smaller_and_the_result_stays(tiny_plans, caplog, most, tried):
    plans = tiny_plans(1, data={"target_spacing_zyx_mm": [3, 1, 1], "crop_to_nonzero": False})
    network = FullMemory(most)
    labels = Predictor((network,), plans, (0,), CPU).predict_scans([make_bright_scan()]).labels_zyx
    expected = Predictor((FullMemory(9),), plans, (0,), CPU).predict_scans([make_bright_scan()]).labels_zyx
    assert np.array_equal(labels, expected) and labels.any()
    assert network.sizes[: len(tried)] == tried
    assert [record.message for record in caplog.records] == [
        f"the device's memory was full; trying {n} {'slice' if n == 1 else 'slices'} at a time on cpu (full.)."
        for n in tried[1:]
    ]


def test_a_memory_that_is_full_later_begins_the_case_anew(tiny_plans):
    plans = tiny_plans(1, data={"target_spacing_zyx_mm": [3, 1, 1], "crop_to_nonzero": False})
    network, calls = FullMemory(9), []

    def full_at_the_second(images, organs, **rest):
        calls.append(len(images))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("full")
        return network(images, organs, **rest)

    labels = Predictor((full_at_the_second,), plans, (0,), CPU).predict_scans([make_bright_scan()]).labels_zyx
    assert calls == [4, 2, 2, 2, 2] and labels.any()


def test_a_full_memory_of_the_machine_counts_too_and_other_errors_do_not(tiny_plans):
    plans = tiny_plans(1, data={"target_spacing_zyx_mm": [3, 1, 1], "crop_to_nonzero": False})
    for message, calls in (("[..] DefaultCPUAllocator: can't allocate memory: you tried ..", 3), ("shapes differ", 1)):
        seen = []

        def network(images, _organs, *, message=message, seen=seen, **_rest):
            seen.append(len(images))
            raise RuntimeError(message)

        with pytest.raises(RuntimeError, match=r"Even one slice|shapes differ"):
            Predictor((network,), plans, (0,), CPU).predict_scans([make_bright_scan()])
        assert len(seen) == calls


def test_one_slice_that_is_too_much_is_an_error_that_says_so(tiny_plans):
    plans = tiny_plans(1, data={"target_spacing_zyx_mm": [3, 1, 1], "crop_to_nonzero": False})
    with pytest.raises(torch.OutOfMemoryError, match=r"full\. Even one slice at a time was too much"):
        Predictor((FullMemory(0),), plans, (0,), CPU).predict_scans([make_bright_scan()])


def test_the_cpu_is_the_last_rung(tiny_plans):
    predictor = Predictor((FullMemory(9),), tiny_plans(1), (0,), torch.device("meta"))
    assert [rung.effort for rung in predictor._ladder()] == [
        "4 slices at a time on meta",
        "2 slices at a time on meta",
        "1 slice at a time on meta",
        "4 slices at a time on cpu",
    ]


class FullDevice(FullMemory):
    """On a device that is no CPU there is not even room for the weights, so long as `is_full`."""

    is_full = True

    def to(self, device):
        super().to(device)
        if self.is_full and str(device) != "cpu":
            raise torch.OutOfMemoryError("full at the weights")
        return self


def test_weights_that_find_no_room_go_to_the_cpu_and_the_next_case_tries_the_device_again(tiny_plans, caplog):
    plans = tiny_plans(1, data={"target_spacing_zyx_mm": [3, 1, 1], "crop_to_nonzero": False})
    network = FullDevice(9)
    predictor = Predictor((network,), plans, (0,), torch.device("meta"))
    for _case in range(2):
        assert predictor.predict_scans([make_bright_scan()]).labels_zyx.any()
        assert network.moves == ["meta", "meta", "meta", "cpu"]
        network.moves.clear()
    assert "trying 4 slices at a time on cpu (full at the weights)" in caplog.text


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried ..", "CUDA error: out of memory\nmore"])
def test_a_model_that_finds_no_room_on_the_device_is_loaded_on_the_cpu(model, monkeypatch, caplog, words):
    """The second message is of a driver without room for its own part, which has no class of errors."""
    asked = []

    def load(path, *, device, build_network=None):
        asked.append(device.type)
        if device.type == "cuda":
            raise (torch.OutOfMemoryError if "Tried" in words else RuntimeError)(words)
        return load_models(path, device=device)

    monkeypatch.setattr(autoseg.inference.model_loading, "load_models", load)
    assert load_predictor(model, device=torch.device("cuda")).device == CPU
    assert asked == ["cuda", "cpu"]
    assert "too full for the model; predicting on the CPU (CUDA" in caplog.text and "more" not in caplog.text


def test_another_error_of_loading_is_raised(model, monkeypatch):
    def load(path, *, device, build_network=None):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(autoseg.inference.model_loading, "load_models", load)
    with pytest.raises(RuntimeError, match="no kernel image"):
        load_predictor(model, device=torch.device("cuda"))


@pytest.fixture(scope="module")
def model(tiny_plans, tmp_path_factory):
    torch.manual_seed(0)
    plans = tiny_plans(3)
    path = tmp_path_factory.mktemp("model") / "fold_all" / "model.safetensors"
    save_model(build_network(plans).eval(), plans, path)
    return path


def test_load_predictor_knows_the_names_and_those_asked_for(model):
    assert load_predictor(model, device=CPU).names == {1: "organ 0", 3: "organ 1", 5: "organ 2"}
    some = load_predictor(model, organs=("organ 2", "organ 0"), device=CPU)
    assert some.organs == (0, 2) and some.names == {1: "organ 0", 5: "organ 2"}


def test_load_predictor_an_unknown_label_is_named_with_those_that_are_known(model):
    with pytest.raises(UsageError, match=r"pancreas.*organ 0, organ 1, organ 2"):
        load_predictor(model, organs=("organ 1", "pancreas"), device=CPU)


def test_predictions_of_a_real_network_are_the_same_each_time(model, rng):
    scan = Scan(
        rng.normal(size=(3, 40, 36)).astype(np.float32), ImageGeometry.from_spacing((3, 40, 36), (3.0, 1.0, 1.0))
    )
    predictor = load_predictor(model, device=CPU)
    one, other = (
        predictor.predict_scans([scan]).labels_zyx,
        load_predictor(model, device=CPU).predict_scans([scan]).labels_zyx,
    )
    assert one.shape == (3, 40, 36) and np.array_equal(one, other) and set(np.unique(one)) <= {0, 1, 3, 5}


def test_find_model_files_takes_a_file_a_fold_a_run_and_prefers_the_model_of_all_cases(tmp_path):
    for name in ("fold_1", "fold_0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    (tmp_path / "fold_2").mkdir()  # not trained yet
    folds = [tmp_path / name / "model.safetensors" for name in ("fold_0", "fold_1")]
    assert find_model_files(tmp_path) == folds
    assert find_model_files(tmp_path / "fold_1") == find_model_files(folds[1]) == [folds[1]]
    (tmp_path / "fold_all").mkdir()
    (tmp_path / "fold_all" / "model.safetensors").touch()
    assert find_model_files(tmp_path) == [tmp_path / "fold_all" / "model.safetensors"]


def test_find_model_files_without_one_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"Train first, with autoseg_train"):
        find_model_files(tmp_path)
    with pytest.raises(CheckpointError, match="there is no"):
        find_model_files(tmp_path / "nowhere")


def test_folds_of_different_plans_are_not_averaged(model, tiny_plans, tmp_path):
    other = tiny_plans(3, network={"refiner_channels": [4, 8]})
    for fold, plans in ((0, tiny_plans(3)), (1, other)):
        save_model(build_network(plans), plans, tmp_path / f"fold_{fold}" / "model.safetensors")
    with pytest.raises(CheckpointError, match="different plans"):
        load_predictor(tmp_path, device=CPU)
