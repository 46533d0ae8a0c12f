import numpy as np
import pytest

from autoseg.config.data import ChannelPlan, DataPlan, DatasetPlan, LabelPlan, OrganPlan, RegionPlan
from autoseg.datasets.partial_labels import (
    IGNORE,
    annotated_indices,
    ask_labels,
    class_table,
    index_of_values,
    region_table,
)
from autoseg.errors import DatasetError


def make_plan():
    """Organs left kidney, right kidney, liver; dataset "sides" has the kidneys apart, "one" has them together."""
    organs = [
        OrganPlan(name=name, value=10 * k, sentences=("It.",)) for k, name in enumerate(("left", "right", "liver"), 1)
    ]
    sides = DatasetPlan(
        name="sides",
        modality="CT",
        labels=(
            LabelPlan(value=1, name="kidney_l", maps_to="left"),
            LabelPlan(value=2, name="kidney_r", maps_to="right"),
        ),
    )
    one = DatasetPlan(
        name="one",
        modality="CT",
        labels=(
            LabelPlan(value=7, name="Kidney", maps_to="kidneys"),
            LabelPlan(value=8, name="Leber", maps_to="liver"),
            LabelPlan(value=9, name="stent", maps_to=None),
        ),
    )
    return DataPlan(
        channels=(ChannelPlan(name="CT", normalization="ct"),),
        organs=tuple(organs),
        regions=(RegionPlan(name="kidneys", organs=("left", "right")),),
        datasets=(sides, one),
        target_spacing_zyx_mm=(1.0, 1.0, 1.0),
        slice_axis="z",
    )


def rows(table):
    return ["".join("x" if may_be else "." for may_be in row) for row in table]


def test_region_table_marks_the_classes_of_each_region():
    assert rows(region_table(make_plan())) == [".xx."]


def test_class_table_where_all_was_annotated_has_one_class_for_each_organ():
    assert rows(class_table(make_plan(), None)) == ["x...", ".x..", "..x.", "...x", ".xx."]


def test_class_table_background_may_be_what_nobody_annotated():
    """Of the kidneys alone; an index that the case cannot hold says nothing."""
    assert rows(class_table(make_plan(), (1, 2))) == ["x..x", ".x..", "..x.", "xxxx", "xxxx"]


def test_class_table_of_an_annotated_region_leaves_its_organs_untold_but_not_in_the_background():
    assert rows(class_table(make_plan(), (3, 4))) == ["x...", "xxxx", "xxxx", "...x", ".xx."]


def test_class_table_of_an_index_that_is_none_is_an_error():
    with pytest.raises(DatasetError, match=r"\[5\] were annotated.*from 1 to 4"):
        class_table(make_plan(), (5,))


def test_index_of_values_follows_the_mapping_of_the_dataset():
    plan = make_plan()
    assert index_of_values(plan, None) == {10: 1, 20: 2, 30: 3}
    assert index_of_values(plan, "sides") == {1: 1, 2: 2}
    assert index_of_values(plan, "one") == {7: 4, 8: 3, 9: 0}


def test_annotated_indices_of_a_case_are_those_of_its_dataset_or_fewer():
    plan = make_plan()
    assert annotated_indices(plan, "sides") == (1, 2)
    assert annotated_indices(plan, "one") == (3, 4)
    assert annotated_indices(plan, "one", ["Leber", "stent"]) == (3,)
    assert annotated_indices(plan, None) is None
    assert annotated_indices(plan, None, ["left", "liver"]) == (1, 3)
    assert annotated_indices(plan, None, ["liver", "right", "left"]) is None


def test_ask_labels_gives_positions_and_what_they_may_be_for_the_organs_asked_for():
    plan = make_plan()
    tables = [class_table(plan, None), class_table(plan, (3, 4))]
    labels = np.array([[[0, 1, 2]], [[3, 4, IGNORE]]])
    asked = ask_labels(labels, tables=tables, regions=region_table(plan), organs=np.array([0, 1, 2]))
    assert asked.labels.tolist() == labels.tolist()
    assert rows(asked.classes[0]) == ["x...", ".x..", "..x.", "...x", ".xx."]
    assert rows(asked.classes[1]) == ["x...", "xxxx", "xxxx", "...x", ".xx."]
    assert rows(asked.regions) == [".xx."]


def test_ask_labels_makes_background_of_organs_that_are_not_asked_for():
    """Left kidney and liver are asked for: "kidney" is the left one or, as far as they go, background."""
    plan = make_plan()
    labels = np.array([[[0, 2, 3, 4]]])
    asked = ask_labels(labels, tables=[class_table(plan, None)], regions=region_table(plan), organs=np.array([0, 2]))
    meant = asked.classes[0][asked.labels[0, 0]]
    assert rows(meant) == ["x..", "x..", "..x", "xx."]
    assert asked.regions.shape == (0, 3)
