from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoseg.config.plans import ComponentFilter, Plans
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import read_labels
from autoseg.preprocessing.pipeline import CaseSource, PreprocessedCase
from autoseg.preprocessing.store import CaseStore
from autoseg.preprocessing.transform import CaseTransform
from autoseg.training.validation.component_filter_choice import OrganPieces
from autoseg.training.validation.confusion import mean_dice
from autoseg.training.validation.validate_case import clean_validation_map, validate_case, write_validation_map

CPU = torch.device("cpu")
SINGLE = CaseSource()


def read_off(images, organs, **_rest):
    """Stand in for a network: the middle slice's values are the organ indices themselves."""
    middle = images[:, images.shape[1] // 2]
    numbers = torch.cat([torch.tensor([0]), organs + 1]).view(1, -1, 1, 1)
    return SimpleNamespace(logits=-20 * (middle.unsqueeze(1) - numbers).abs())


@pytest.fixture
def store_with(tiny_plans, tmp_path):
    """Store one case whose image shows the given organ indices, beside the labels that are true."""
    plans = tiny_plans(3)

    def make(shown, labels, plans=plans, source=SINGLE):
        shape = labels.shape
        transform = CaseTransform(
            ImageGeometry.from_spacing(shape, (3.0, 1.0, 1.0)), tuple((0, size) for size in shape), "z", shape
        )
        store = CaseStore(tmp_path / "store", data_hash=plans.data.hash())
        case = PreprocessedCase(shown[None].astype(np.float32), labels, transform, source)
        store.write("case", case, plans.data.hash())
        return store, plans

    return make


def test_dice_counts_over_the_whole_volume_and_leaves_out_what_is_ignored(store_with):
    """Organ 1: 4 of 6 voxels found, 2 more wrongly. Organ 2: only there. Organ 3: nowhere. A slice is ignored."""
    labels, shown = np.zeros((2, 3, 32, 32), np.uint8)
    labels[0, 0, :3], labels[1, 0, :3] = 1, 1
    shown[0, 0, 1:4], shown[1, 0, 1:4] = 1, 1
    labels[1, 5, :4] = 2
    labels[2], shown[2] = 255, 1
    store, plans = store_with(shown, labels)
    dice = validate_case(read_off, store, "case", plans=plans, device=CPU)
    assert dice["organ 0"] == pytest.approx(2 * 4 / (6 + 6))
    assert dice["organ 1"] == 0.0
    assert dice["organ 2"] is None


def test_validation_map_lies_on_the_scans_grid_with_the_datasets_values(store_with, tmp_path):
    labels = np.zeros((3, 32, 32), np.uint8)
    labels[1, 4:9, 4:9], labels[1, 20:25, 4:9] = 1, 3
    store, plans = store_with(labels, labels)
    dice, pieces = write_validation_map(read_off, store, "case", plans=plans, device=CPU, folder=tmp_path / "maps")
    assert dice == {"organ 0": 1.0, "organ 1": None, "organ 2": 1.0}
    assert pieces["organ 2"] == OrganPieces(0.003, 25, (25,), (25,))  # voxels of 3 x 1 x 1 mm
    written = read_labels(tmp_path / "maps" / "case.nii.gz")
    values = np.array([0, 1, 3, 5])  # tiny plans give organ k the value 2 k + 1
    assert np.array_equal(written.array_zyx, values[labels])
    assert written.geometry == ImageGeometry.from_spacing((3, 32, 32), (3.0, 1.0, 1.0))


def test_mean_dice_is_over_the_cases_in_which_an_organ_counts():
    cases = [{"a": 0.5, "b": None, "c": None}, {"a": 1.0, "b": 0.25, "c": None}]
    assert mean_dice(cases) == {"a": 0.75, "b": 0.25, "c": None}
    assert mean_dice([]) == {}


def test_a_written_map_is_cleaned_by_the_plan(store_with, tmp_path):
    labels = np.zeros((3, 32, 32), np.uint8)
    labels[1, 4:9, 4:9], labels[1, 20, 20] = 1, 1
    store, plans = store_with(labels, labels)
    write_validation_map(read_off, store, "case", plans=plans, device=CPU, folder=tmp_path / "maps")
    path = tmp_path / "maps" / "case.nii.gz"
    assert (read_labels(path).array_zyx == 1).sum() == 26
    cleaning = (ComponentFilter(organ="organ 0", min_fraction=0.1),)
    plans = plans.model_copy(update={"inference": plans.inference.model_copy(update={"component_filter": cleaning})})
    clean_validation_map(path, plans=plans)
    assert (read_labels(path).array_zyx == 1).sum() == 25


def with_region(plans):
    content = plans.model_dump(mode="json")
    content["data"]["regions"] = [{"name": "both", "organs": ["organ 0", "organ 1"]}]
    return Plans.model_validate(content)


def test_a_case_with_a_region_and_organs_that_nobody_annotated_counts_as_far_as_it_goes(
    store_with, tiny_plans, tmp_path
):
    """Index 4 is "organ 0 or 1"; organ 2 was annotated, organs 0 and 1 were not told apart."""
    labels, shown = np.zeros((2, 3, 32, 32), np.uint8)
    labels[1, 4:9, 4:9], labels[1, 20:25, 4:9] = 4, 3
    shown[1, 4:9, 4:9], shown[1, 20:25, 4:8], shown[1, 4:9, 8] = 1, 3, 2
    shown[1, 30, 30] = 2  # in the background, which neither of the two is
    plans = with_region(tiny_plans(3))
    store, plans = store_with(shown, labels, plans, CaseSource("A", (3, 4)))
    dice, pieces = write_validation_map(read_off, store, "case", plans=plans, device=CPU, folder=tmp_path / "maps")
    assert dice == {
        "organ 0": None,
        "organ 1": None,
        "organ 2": pytest.approx(2 * 20 / (25 + 20)),
        "both": pytest.approx(2 * 25 / (25 + 26)),
    }
    assert list(pieces) == ["organ 2"] and pieces["organ 2"].hits == (20,)
    assert validate_case(read_off, store, "case", plans=plans, device=CPU) == dice


def test_pieces_on_voxels_that_may_be_the_organ_do_not_count_as_specks(store_with, tiny_plans, tmp_path):
    labels, shown = np.zeros((2, 3, 32, 32), np.uint8)
    labels[1, 4:9, 4:9], labels[1, 20:22, 20:22] = 1, 4
    shown[labels > 0] = 1
    shown[1, 30, 30] = 1
    plans = with_region(tiny_plans(3))
    store, plans = store_with(shown, labels, plans, CaseSource("A", (1, 2, 3, 4)))
    dice, pieces = write_validation_map(read_off, store, "case", plans=plans, device=CPU, folder=tmp_path / "maps")
    assert sorted(zip(pieces["organ 0"].sizes, pieces["organ 0"].hits, strict=True)) == [(1, 0), (25, 25)]
    assert dice["organ 0"] == pytest.approx(2 * 25 / (25 + 26))
