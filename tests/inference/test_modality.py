import numpy as np
import pytest

from autoseg.config.data import ChannelPlan, DataPlan, ModalityPlan, OrganPlan
from autoseg.errors import UsageError
from autoseg.inference.modality import choose_modality, find_modality_number, list_alike
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan


def make_plan(*names):
    channels = (ChannelPlan(name="c", normalization="zscore"),)
    more = tuple(ModalityPlan(name=name, channels=channels) for name in names[1:])
    organ = OrganPlan(name="liver", value=1, sentences=("It.",), additional_sentences=(("It.",),) * len(more))
    return DataPlan(
        channels=channels,
        modality=names[0],
        additional_modalities=more,
        organs=(organ,),
        target_spacing_zyx_mm=(1.0, 1.0, 1.0),
        slice_axis="z",
    )


def scans_of(*lowest):
    return [
        Scan(np.array([[[low, 100.0]]], np.float32), ImageGeometry.from_spacing((1, 1, 2), (1.0, 1.0, 1.0)))
        for low in lowest
    ]


@pytest.mark.parametrize(
    ("name", "number"), [("ct", 1), (" CT ", 1), ("MR", 0), ("t2w", 0), ("CECT", 1), ("pet", 2), (None, None)]
)
def test_find_modality_number_knows_a_modality_by_its_name_or_kind(name, number):
    assert find_modality_number(make_plan("mri", "ct", "PET"), name) == number


@pytest.mark.parametrize("name", ["ultrasound", "", "x" * 500, "ct\x1b[31m"])
def test_find_modality_number_of_another_name_says_which_there_are(name):
    with pytest.raises(UsageError, match=r"the model knows mri, PET\. Name one of them, or leave it out") as caught:
        find_modality_number(make_plan("mri", "PET"), name)
    assert len(str(caught.value)) < 250 and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "lowest", "number"),
    [
        (("mri", "ct"), (-1000.0,), 1),
        (("mri", "ct"), (0.0,), 0),
        (("ct", "mri"), (-1000.0,), 0),
        (("ct", "mri"), (-499.0,), 1),
        (("mri", "PET", "ct"), (-1000.0,), 2),
        (("mri", "ct, PET"), (0.0, -1000.0), 1),
        (("ct",), (0.0,), 0),
        (("mri",), (-1000.0,), 0),
    ],
)
def test_choose_modality_goes_by_air(names, lowest, number):
    assert choose_modality(scans_of(*lowest), plan=make_plan(*names)) == number


def test_choose_modality_takes_what_a_user_says():
    assert choose_modality(scans_of(-1000.0), plan=make_plan("mri", "ct"), given=0) == 0


def test_list_alike_names_the_modalities_that_values_do_not_tell_apart():
    plan = make_plan("mri", "ct", "PET")
    assert list_alike(plan, 0) == list_alike(plan, 2) == ["mri", "PET"]
    assert list_alike(plan, 1) == ["ct"]


@pytest.mark.parametrize("names", [("mri",), ("ct",), ("mri", "PET")])
def test_choose_modality_does_not_look_at_a_scan_whose_values_tell_nothing(names):
    assert choose_modality((), plan=make_plan(*names)) == 0
