import pytest

from autoseg.datasets.labels import parse_labels
from autoseg.planning.multi_dataset.label_mapping import unify_labels


def labels_of(content):
    """Read labels as a dataset.json has them; a list of names has the values 1, 2, .."""
    if not isinstance(content, dict):
        content = {name: value for value, name in enumerate(content, 1)}
    problems = []
    labels = parse_labels(content, None, problems)
    assert not [problem for problem in problems if problem.is_error]
    return labels


def unify(**datasets):
    return unify_labels({name: labels_of(content) for name, content in datasets.items()})


def regions_of(mapping):
    return {region.name: region.organs for region in mapping.regions}


def test_unify_labels_joins_synonyms_and_spellings_under_the_name_of_the_first():
    mapping = unify(A=["lien", "gizmo part"], B=["Parts of Gizmo", "spleen", "liver"])
    assert mapping.organs == ("lien", "gizmo part", "liver")
    assert mapping.labels["B"] == {"Parts of Gizmo": "gizmo part", "spleen": "lien", "liver": "liver"}
    assert mapping.regions == ()


@pytest.mark.parametrize("name", ["tumour", "label 1", "class 2", "left", "necrosis 3", "x1"])
def test_unify_labels_keeps_vague_names_apart(name):
    mapping = unify(A=[name], B=[name])
    assert mapping.organs == (name, f"{name} (B)")
    assert mapping.labels == {"A": {name: name}, "B": {name: f"{name} (B)"}}


def test_unify_labels_joins_the_very_same_name_of_another_script():
    assert unify(A=["肝臓", "肺"], B=["肺"]).organs == ("肝臓", "肺")


def test_unify_labels_never_joins_two_labels_of_one_dataset():
    mapping = unify(A=["spleen", "lien"], B=["Lien"])
    assert mapping.organs == ("spleen", "lien")
    assert mapping.labels["B"] == {"Lien": "spleen"}


def test_unify_labels_does_not_take_a_dataset_for_a_word_of_a_name():
    mapping = unify(gizmo=["wall"], B=["gizmo wall"])
    assert mapping.labels == {"gizmo": {"wall": "wall"}, "B": {"gizmo wall": "gizmo wall"}}


def test_unify_labels_gives_no_name_twice():
    mapping = unify(A=["tumour", "tumour (B)", "Tumour (B) 2"], B=["tumour"])
    assert len({name.casefold() for name in mapping.organs}) == 4
    long = "x" * 30 + " " + "label " * 60
    mapping = unify(A=["label " * 33], B=["label " * 33, long[:199].strip()])
    assert all(name == name.strip() and len(name) <= 200 for name in mapping.organs)


def test_a_label_without_side_is_a_region_where_others_tell_the_sides():
    mapping = unify(A=["kidneys", "spleen"], B=["left kidney", "right kidney"])
    assert mapping.organs == ("spleen", "left kidney", "right kidney")
    assert regions_of(mapping) == {"kidneys": ("left kidney", "right kidney")}
    assert mapping.labels["A"] == {"kidneys": "kidneys", "spleen": "spleen"}


def test_a_label_without_side_stays_an_organ_where_its_own_dataset_tells_a_side():
    mapping = unify(A=["kidney", "left kidney"], B=["left kidney", "right kidney"])
    assert mapping.organs == ("kidney", "left kidney", "right kidney") and mapping.regions == ()


def test_an_organ_is_a_region_with_the_tumour_that_others_tell_from_it():
    mapping = unify(A=["liver"], B=["liver", "liver tumour"])
    assert mapping.organs == ("liver", "liver tumour")
    assert regions_of(mapping) == {"liver with liver tumour": ("liver", "liver tumour")}
    assert mapping.labels == {
        "A": {"liver": "liver with liver tumour"},
        "B": {"liver": "liver", "liver tumour": "liver tumour"},
    }


def test_an_organ_of_whose_kind_others_label_the_tumour_alone_is_no_tumour():
    mapping = unify(A=["lung"], B=["lung tumour"])
    assert mapping.organs == ("lung", "lung tumour")
    assert mapping.labels == {"A": {"lung": "lung with lung tumour"}, "B": {"lung tumour": "lung tumour"}}


def test_sides_and_tumour_in_two_datasets_cross():
    """The third dataset of the shape of KiTS: nobody labels a healthy left kidney alone, yet it is what is left."""
    mapping = unify(A=["kidney"], B=["left kidney", "right kidney"], C=["kidney", "kidney tumour"])
    left, right, tumour = mapping.organs
    assert (left, right, tumour) == ("left kidney", "right kidney", "kidney tumour")
    regions = regions_of(mapping)
    assert {(d, label): regions.get(m, m) for d, own in mapping.labels.items() for label, m in own.items()} == {
        ("A", "kidney"): (left, right, tumour),
        ("B", "left kidney"): (left, tumour),
        ("B", "right kidney"): (right, tumour),
        ("C", "kidney"): (left, right),
        ("C", "kidney tumour"): tumour,
    }
    assert len({name.casefold() for name in (*mapping.organs, *regions)}) == 3 + 4


def test_what_an_organ_is_made_of_is_followed_to_its_ends():
    mapping = unify(A=["kidney"], B=["kidney tumour"], C=["left kidney tumour", "right kidney tumour"])
    assert mapping.organs == ("kidney", "left kidney tumour", "right kidney tumour")
    assert regions_of(mapping)[mapping.labels["A"]["kidney"]] == mapping.organs
    assert regions_of(mapping)[mapping.labels["B"]["kidney tumour"]] == mapping.organs[1:]


def test_what_a_dataset_tells_apart_itself_is_in_none_of_its_other_labels():
    """Names as in TotalSegmentator, AMOS and KiTS: the first tells the cysts by side, the last without."""
    mapping = unify(
        A=["kidney_left", "kidney_right", "kidney_cyst_left", "kidney_cyst_right"],
        B=["left kidney", "right kidney"],
        C=["kidney", "kidney tumour", "kidney cyst"],
    )
    regions = regions_of(mapping)
    left, right, left_cyst, right_cyst, tumour = mapping.organs
    means = {(d, label): regions.get(m, (m,)) for d, own in mapping.labels.items() for label, m in own.items()}
    assert means["A", "kidney_left"] == (left, tumour) and means["A", "kidney_right"] == (right, tumour)
    assert means["B", "left kidney"] == (left, left_cyst, tumour)
    assert means["B", "right kidney"] == (right, right_cyst, tumour)
    assert means["C", "kidney"] == (left, right)
    assert means["C", "kidney cyst"] == (left_cyst, right_cyst)
    assert means["A", "kidney_cyst_left"] == (left_cyst,) == ("kidney_cyst_left",)


def test_a_region_of_one_dataset_is_what_another_calls_so():
    mapping = unify(A=["liver"], B={"liver": [1, 2], "liver tumour": 2})
    assert mapping.organs == ("liver without liver tumour", "liver tumour")
    assert regions_of(mapping) == {"liver": mapping.organs}
    assert mapping.labels["A"] == {"liver": "liver"}


def test_a_region_with_a_vague_name_is_no_label_of_another_dataset():
    mapping = unify(A=["tumour"], B={"tumour": [1, 2], "oedema": 1, "core": 2})
    assert mapping.labels["A"] == {"tumour": "tumour"}
    assert regions_of(mapping) == {"tumour (B)": ("oedema", "core")}


def test_the_same_regions_in_two_datasets_have_the_same_parts():
    brain = {"whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing tumour": 3}
    mapping = unify(A=brain, B={name.replace("our", "or"): value for name, value in brain.items()}, C=["whole tumor"])
    assert len(mapping.organs) == 3
    assert regions_of(mapping)[mapping.labels["C"]["whole tumor"]] == mapping.organs
    assert [len(organs) for organs in regions_of(mapping).values()] == [3, 2]


def test_parts_of_vague_regions_stay_apart():
    vague = {"roi": [1, 2], "spot": 2}
    mapping = unify(A=vague, B=vague)
    assert mapping.organs == ("roi without spot", "spot", "roi without spot (B)")


def test_a_region_of_labels_that_others_split_holds_all_their_parts():
    mapping = unify(A={"gizmo": [1, 2], "kidney": 1, "spleen": 2}, B=["left kidney", "right kidney"])
    assert regions_of(mapping)["gizmo"] == ("spleen", "left kidney", "right kidney")


def test_regions_that_are_made_of_each_other_end():
    """No dataset makes sense that way, but every label means something."""
    mapping = unify(
        A={"alpha": [1, 2], "beta": 1, "gamma": 2},
        B={"beta": [1, 2], "alpha": 1, "gamma": 2},
        C={"gamma": [1, 2], "alpha": 1, "beta": 2},
    )
    known = {*mapping.organs, *regions_of(mapping)}
    assert all(means in known for own in mapping.labels.values() for means in own.values())
    assert all(organ in mapping.organs for organs in regions_of(mapping).values() for organ in organs)
