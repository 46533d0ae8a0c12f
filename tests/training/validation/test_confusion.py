import numpy as np
import pytest

from autoseg.config.data import ChannelPlan, DataPlan, OrganPlan, RegionPlan
from autoseg.training.validation.confusion import ambiguous_labels, count_confusion, measure_dice

BACKGROUND, LEFT, RIGHT, LIVER, KIDNEYS, ALL = range(6)


def make_plan():
    """Organs left, right, liver; regions kidneys (left, right) and all."""
    names = ("left", "right", "liver")
    return DataPlan(
        channels=(ChannelPlan(name="CT", normalization="ct"),),
        organs=tuple(OrganPlan(name=name, value=k, sentences=("It.",)) for k, name in enumerate(names, 1)),
        regions=(RegionPlan(name="kidneys", organs=("left", "right")), RegionPlan(name="all", organs=names)),
        target_spacing_zyx_mm=(1.0, 1.0, 1.0),
        slice_axis="z",
    )


def dice(pairs, annotated=None):
    """Measure voxels given as (reference, predicted): how many."""
    plan = make_plan()
    reference, predicted = (np.repeat([pair[side] for pair in pairs], list(pairs.values())) for side in (0, 1))
    confusion = count_confusion(reference.astype(np.uint8), predicted, plan=plan)
    return measure_dice(confusion, plan=plan, annotated=annotated)


def test_count_confusion_counts_each_pair_and_leaves_out_what_is_ignored():
    reference, predicted = np.array([[KIDNEYS, LEFT, 255], [0, ALL, 255]], np.uint8), np.array([[1, 1, 1], [0, 3, 0]])
    confusion = count_confusion(reference, predicted, plan=make_plan())
    assert confusion.shape == (6, 4) and confusion.sum() == 4
    assert confusion[KIDNEYS, LEFT] == confusion[LEFT, LEFT] == confusion[0, 0] == confusion[ALL, LIVER] == 1


def test_dice_of_organs_and_regions_where_all_was_annotated():
    """Left 6 of 8, predicted 7, one of them on the right one; kidneys: 8 + 4 known, 7 + 3 found, 10 hit."""
    found = dice({(LEFT, LEFT): 6, (LEFT, 0): 2, (RIGHT, LEFT): 1, (RIGHT, RIGHT): 3, (0, 0): 50})
    assert found["left"] == pytest.approx(2 * 6 / (8 + 7))
    assert found["right"] == pytest.approx(2 * 3 / (4 + 3))
    assert found["kidneys"] == pytest.approx(2 * 10 / (12 + 10))
    assert found["liver"] is None
    assert found["all"] == found["kidneys"]


def test_dice_of_what_nobody_annotated_is_none_and_its_prediction_in_the_background_no_fault():
    found = dice({(LEFT, LEFT): 4, (RIGHT, RIGHT): 4, (0, LIVER): 100, (0, 0): 9}, annotated=(LEFT, RIGHT))
    assert found == {"left": 1.0, "right": 1.0, "liver": None, "kidneys": 1.0, "all": None}


def test_dice_where_only_a_region_was_annotated_is_that_of_the_region():
    found = dice({(KIDNEYS, LEFT): 3, (KIDNEYS, RIGHT): 2, (KIDNEYS, 0): 1, (0, RIGHT): 1}, annotated=(KIDNEYS,))
    assert found["kidneys"] == pytest.approx(2 * 5 / (6 + 6))
    assert found["left"] is None and found["right"] is None and found["all"] is None


def test_dice_of_a_region_that_is_made_up_of_a_region_and_an_organ():
    found = dice({(KIDNEYS, LEFT): 3, (LIVER, LIVER): 3, (LIVER, 0): 2}, annotated=(LIVER, KIDNEYS))
    assert found["all"] == pytest.approx(2 * 6 / (8 + 6))
    assert found["liver"] == pytest.approx(2 * 3 / (5 + 3))


def test_voxels_that_may_be_the_organ_are_no_fault_of_its_prediction():
    """Some kidneys of this case are told apart, others are "kidney": the left one may be among these."""
    pairs = {(LEFT, LEFT): 4, (KIDNEYS, LEFT): 10, (LIVER, LEFT): 2, (LIVER, LIVER): 1}
    found = dice(pairs, annotated=(LEFT, RIGHT, LIVER, KIDNEYS))
    assert found["left"] == pytest.approx(2 * 4 / (4 + 6))
    assert found["kidneys"] == pytest.approx(2 * 14 / (14 + 16))


def test_voxels_of_a_label_that_was_not_annotated_count_nowhere():
    """The label map holds the liver though the dataset says that nobody looked for it."""
    found = dice({(LEFT, LEFT): 4, (LIVER, LEFT): 100, (LIVER, RIGHT): 100}, annotated=(LEFT,))
    assert found["left"] == 1.0


def test_ambiguous_labels_are_regions_and_what_was_not_annotated():
    plan = make_plan()
    assert ambiguous_labels(plan, None).tolist() == [False, False, False, False, True, True]
    assert ambiguous_labels(plan, (LEFT, KIDNEYS)).tolist() == [False, False, True, True, True, True]
