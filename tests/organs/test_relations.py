import pytest

from autoseg.organs.relations import FinerNames, is_other_side, organ_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("spleen", "lien"),  # a synonym
        ("Left Kidney", "kidney_l"),
        ("liver tumour", "Liver_Tumor"),
        ("gizmo part", "parts of the Gizmo"),  # unknown, but it reads alike
        ("Œsophagus", "esophagus"),
        ("肝臓", "肝臓"),
        ("Größe", "größe"),
    ],
)
def test_organ_key_is_the_same_for_names_of_one_organ(one, other):
    assert organ_key(one) == organ_key(other) is not None


@pytest.mark.parametrize(
    "name", ["tumour", "cancer", "label 1", "class_2", "7", "x2", "left", "lesion 3", "ventricle", "", "!!", "the"]
)
def test_organ_key_of_a_vague_name_is_none(name):
    assert organ_key(name) is None


def test_organ_key_of_another_script_is_the_name_itself_and_not_the_latin_letters_in_it():
    """ "肝 L1" has the letters of the vertebra L1, and "右 kidney" those of a kidney."""
    assert organ_key("肝 L1") != organ_key("L1")
    assert organ_key("右 kidney") != organ_key("左 kidney")
    assert organ_key("肝 L1") != organ_key("肺 L1")


def test_halves_are_both_sides_of_a_name_without_one():
    names = FinerNames(["right kidney", "kidney_left", "left lung", "left ventricle", "right ventricle"])
    assert names.halves_of("kidneys") == ("right kidney", "kidney_left")
    assert names.halves_of("lung") == ()  # a single side says nothing of the other
    assert names.halves_of("left kidney") == ()
    assert names.halves_of("ventricle") == ()  # of the heart, or of the brain
    assert names.halves_of("kidney", without={"right kidney"}) == ()


def test_lesions_are_those_of_an_organ_and_its_side():
    names = FinerNames(["kidney tumour", "left kidney cyst", "lung nodule", "tumour", "kidney"])
    assert names.lesions_of("Kidneys") == ("kidney tumour", "left kidney cyst")
    assert names.lesions_of("right kidney") == ("kidney tumour",)
    assert names.lesions_of("left kidney") == ("kidney tumour", "left kidney cyst")
    assert names.lesions_of("kidney tumour") == ()
    assert names.lesions_of("liver") == names.lesions_of("tumour") == ()
    assert FinerNames(["pancreatic tumour", "hepatic vessels"]).lesions_of("pancreas") == ("pancreatic tumour",)
    assert FinerNames(["hepatic vessels", "hepatic cyst"]).lesions_of("liver") == ("hepatic cyst",)


def test_is_other_side_needs_two_sides():
    assert is_other_side("left kidney cyst", "right kidney") and not is_other_side("left kidney cyst", "left kidney")
    assert not is_other_side("kidney cyst", "right kidney") and not is_other_side("left kidney cyst", "kidney")
