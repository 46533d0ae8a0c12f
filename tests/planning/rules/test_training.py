import pytest

from autoseg.config.plans import Device, NetworkPlan
from autoseg.planning.rules.training import (
    choose_augmentation_place,
    choose_batch,
    choose_component_filter,
    choose_inference_batch,
    choose_inference_mirror_axes,
    choose_learning_rate,
    choose_mirror_axes,
    choose_num_folds,
    choose_organs_per_step,
)

CPU = Device(kind="cpu", memory_gib=8)


def cuda(memory_gib, cores=None):
    return Device(kind="cuda", memory_gib=memory_gib, cores=cores)


def network(rows=160, columns=160, backbone="nano", image_size=64):
    return NetworkPlan(backbone=backbone, image_size_px=image_size, window_rows_px=rows, window_columns_px=columns)


@pytest.mark.parametrize(("rows", "batch"), [(96, 16), (112, 8)])
def test_batch_on_a_cpu_is_doubled_for_small_windows(rows, batch):
    assert choose_batch(network(rows=rows, columns=96), organs_per_step=2, device=CPU).value == batch


def test_batch_on_cuda_grows_with_memory_and_falls_with_organs():
    small = network(256, 256, "small", 256)
    batches = [choose_batch(small, organs_per_step=2, device=cuda(gib)).value for gib in (8, 12, 24, 80)]
    assert batches == sorted(batches) and batches[0] < batches[-1]
    more_organs = choose_batch(small, organs_per_step=32, device=cuda(12)).value
    assert more_organs < choose_batch(small, organs_per_step=1, device=cuda(12)).value


def test_batch_on_cuda_shows_its_estimate_and_says_that_it_is_one():
    choice = choose_batch(network(512, 512, "large", 1024), organs_per_step=8, device=cuda(48))
    assert choice.facts["estimated_gib"] <= choice.facts["usable_gib"]
    assert "fitted to measurements" in choice.rule


def test_batch_on_cuda_is_at_least_1():
    assert choose_batch(network(512, 512, "large", 1024), organs_per_step=32, device=cuda(2)).value == 1


@pytest.mark.parametrize(
    ("cores", "batch", "channels", "place"),
    [(16, 16, 1, "cpu"), (6, 16, 1, "cpu"), (4, 16, 1, "device"), (16, 16, 5, "device"), (None, 16, 2, "device")],
)
def test_the_gpu_changes_slices_where_the_cores_are_too_few(cores, batch, channels, place):
    """16 slices with two neighbors, 512 x 512: 12.6 megapixels, 0.44 s of a core, 4 cores in 110 ms."""
    window = network(512, 512)
    given = {"num_channels": channels, "batch_slices": batch}
    choice = choose_augmentation_place(window, **given, device=cuda(24, cores))
    assert choice.value == ("device" if channels * 4.004 > (cores or 8) - 1 else "cpu") == place
    assert choice.facts["needed_cores"] == pytest.approx(channels * 4.004, abs=0.06)
    assert choose_augmentation_place(window, **given, device=CPU).value == "cpu"
    point_prompts = window.model_copy(update={"point_prompts": True})
    assert choose_augmentation_place(point_prompts, **given, device=cuda(24, 1)).value == "cpu"


def test_learning_rate_is_higher_for_nano():
    assert (choose_learning_rate("nano").value, choose_learning_rate("large").value) == (1e-3, 3e-4)


@pytest.mark.parametrize(
    ("names", "slice_axis", "axes"),
    [
        (["liver"], "z", ("slice", "row", "column")),
        (["kidney_left", "kidney_right"], "z", ("slice", "row")),  # x is the column of axial slices
        (["kidney_left", "kidney_right"], "y", ("slice", "row")),  # and of coronal ones
        (["kidney_left", "kidney_right"], "x", ("row", "column")),
        (["left atrium"], "z", ("slice", "row")),  # also without its opposite
        (["anterior hippocampus", "posterior hippocampus"], "z", ("slice", "column")),  # y is the row
        (["anterior hippocampus", "posterior hippocampus"], "y", ("row", "column")),
        (["superior lobe", "inferior lobe"], "z", ("row", "column")),
        (["inferior vena cava"], "z", ("slice", "row", "column")),  # nothing above it to confuse it with
    ],
)
def test_mirror_axes_leave_out_those_that_names_tell_apart(names, slice_axis, axes):
    choice = choose_mirror_axes(names, slice_axis=slice_axis)
    assert choice.value == axes
    assert choose_inference_mirror_axes(choice.value).value == tuple(axis for axis in axes if axis != "slice")


@pytest.mark.parametrize(
    ("organs", "device", "expected"), [(2, CPU, 2), (104, CPU, 16), (20, cuda(24), 20), (104, cuda(24), 32)]
)
def test_organs_per_step_are_all_up_to_a_limit(organs, device, expected):
    assert choose_organs_per_step(organs, device=device).value == expected


@pytest.mark.parametrize(("patients", "folds"), [(1, 1), (2, 2), (4, 4), (5, 5), (200, 5)])
def test_num_folds_is_five_or_the_number_of_patients(patients, folds):
    assert choose_num_folds(patients).value == folds


def test_inference_batch_on_cuda_is_twice_that_of_training():
    assert choose_inference_batch(6, device=cuda(24)).value == 12
    assert choose_inference_batch(4, device=CPU).value == 8


def test_organs_are_cleaned_that_are_in_one_piece_in_nine_of_ten_of_enough_cases():
    pieces = {"liver": [1] * 9 + [2], "lesion": [1] * 8 + [2, 3], "few": [1] * 7, "just enough": [1] * 8, "never": []}
    choice = choose_component_filter(pieces)
    assert [cleaning.organ for cleaning in choice.value] == ["liver", "just enough"]
    assert {(cleaning.min_fraction, cleaning.min_volume_ml) for cleaning in choice.value} == {(0.1, 0.0)}
    assert choice.facts["fraction_in_one_piece"] == {"liver": 0.9, "lesion": 0.8, "just enough": 1.0}
