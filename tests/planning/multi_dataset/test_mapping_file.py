import json

import pytest

from autoseg.datasets.labels import parse_labels
from autoseg.errors import UsageError
from autoseg.planning.multi_dataset.label_mapping import unify_labels
from autoseg.planning.multi_dataset.mapping_file import FILE_NAME, describe_mapping, find_mapping
from autoseg.system.atomic_files import read_json

KITS = ["kidney", "kidney tumour"]
SIDES = ["left kidney", "right kidney"]


def labels_of(names):
    return parse_labels({name: value for value, name in enumerate(names, 1)}, None, [])


def find(folder, **datasets):
    return find_mapping(folder, {name: labels_of(names) for name, names in datasets.items()})


def edit(folder, change):
    content = read_json(folder / FILE_NAME)
    change(content)
    (folder / FILE_NAME).write_text(json.dumps(content))


def regions_of(mapping):
    return {region.name: region.organs for region in mapping.regions}


def test_find_mapping_writes_what_it_found_and_reads_it_again(tmp_path):
    datasets = {"A": ["liver", "spleen"], "B": ["Lien", "liver", "liver tumour"]}
    found = find(tmp_path, **datasets)
    content = read_json(tmp_path / FILE_NAME)
    assert content["datasets"] == {
        "A": {"liver": "liver with liver tumour", "spleen": "spleen"},
        "B": {"Lien": "spleen", "liver": "liver", "liver tumour": "liver tumour"},
    }
    assert content["regions"] == {"liver with liver tumour": ["liver", "liver tumour"]}
    before = (tmp_path / FILE_NAME).stat().st_ino
    assert find(tmp_path, **datasets) == found == unify_labels({k: labels_of(v) for k, v in datasets.items()})
    assert (tmp_path / FILE_NAME).stat().st_ino == before, "a file that says the same is not written again"


def test_find_mapping_takes_an_edit_and_keeps_it(tmp_path):
    def change(content):
        content["datasets"]["A"]["stent"] = None
        content["datasets"]["A"]["bump"] = "kidney tumour"
        del content["datasets"]["B"]["kidney"]

    datasets = {"A": ["bump", "stent"], "B": KITS}
    find(tmp_path, **datasets)
    edit(tmp_path, change)
    for _ in range(2):
        mapping = find(tmp_path, **datasets)
        assert mapping.labels == {
            "A": {"bump": "kidney tumour", "stent": None},
            "B": {"kidney": "kidney", "kidney tumour": "kidney tumour"},
        }
        assert mapping.organs == ("kidney", "kidney tumour")
    assert read_json(tmp_path / FILE_NAME)["datasets"]["B"]["kidney"] == "kidney", "a line that was removed is back"


def test_find_mapping_takes_a_region_that_a_user_wrote(tmp_path):
    def change(content):
        content["datasets"]["A"]["abdomen"] = "both"
        content["regions"]["both"] = ["liver", "spleen"]

    find(tmp_path, A=["abdomen"], B=["liver", "spleen"])
    edit(tmp_path, change)
    mapping = find(tmp_path, A=["abdomen"], B=["liver", "spleen"])
    assert mapping.organs == ("liver", "spleen") and regions_of(mapping) == {"both": ("liver", "spleen")}
    assert mapping.labels["A"] == {"abdomen": "both"}


def test_a_region_may_unite_an_organ_that_no_label_means_alone_any_more(tmp_path):
    """A tumour under a vague name, of which only the user knows where it is."""

    def change(content):
        content["datasets"]["A"]["lung"] = "lung and mass"
        content["regions"]["lung and mass"] = ["lung", "mass"]

    find(tmp_path, A=["lung"], B=["mass"])
    edit(tmp_path, change)
    for _ in range(2):
        mapping = find(tmp_path, A=["lung"], B=["mass"])
        assert mapping.organs == ("lung", "mass") and mapping.labels["A"] == {"lung": "lung and mass"}


def test_a_region_whose_organs_become_one_is_that_organ_and_back(tmp_path):
    datasets = {"A": ["liver"], "B": ["liver", "liver tumour"]}
    first = find(tmp_path, **datasets)
    edit(tmp_path, lambda content: content["datasets"]["B"].update({"liver tumour": "liver"}))
    for _ in range(2):
        mapping = find(tmp_path, **datasets)
        assert mapping.organs == ("liver",) and mapping.regions == ()
        assert mapping.labels["A"] == {"liver": "liver"}
    edit(tmp_path, lambda content: content["datasets"]["B"].update({"liver tumour": "liver tumour"}))
    assert find(tmp_path, **datasets) == first


def test_the_file_wins_over_what_a_new_dataset_would_change(tmp_path, caplog):
    datasets = {"A": ["liver", "stent"], "B": ["spleen"]}
    find(tmp_path, **datasets)
    edit(tmp_path, lambda content: content["datasets"]["A"].update(stent=None))
    more = find(tmp_path, **datasets, C=["liver", "liver tumour"])
    assert more.labels["A"] == {"liver": "liver", "stent": None}
    assert more.labels["C"] == {"liver": "liver", "liver tumour": "liver tumour"}
    assert "A: liver -> liver with liver tumour" in caplog.text
    less = find(tmp_path, **datasets)
    assert less.organs == ("liver", "spleen") and less.labels["A"] == more.labels["A"]
    assert "liver tumour" in read_json(tmp_path / FILE_NAME)["datasets"]["C"]


def test_a_new_label_that_means_a_region_brings_the_region(tmp_path):
    find(tmp_path, A=SIDES, B=["spleen"])
    assert regions_of(find(tmp_path, A=SIDES, B=["spleen"], C=["kidneys"])) == {"kidneys": tuple(SIDES)}


def test_what_a_user_wrote_of_a_dataset_that_goes_is_there_when_it_comes_back(tmp_path):
    def change(content):
        content["datasets"]["C"]["kidney tumour"] = "mass"
        content["datasets"]["A"]["kidney"] = "all of it"
        content["regions"]["all of it"] = ["kidney", "mass"]

    datasets = {"A": ["kidney"], "B": ["spleen"], "C": KITS}
    find(tmp_path, **datasets)
    edit(tmp_path, change)
    whole = find(tmp_path, **datasets)
    assert regions_of(whole)["all of it"] == ("kidney", "mass")
    without = find(tmp_path, A=["kidney"], B=["spleen"])
    assert without.labels["A"] == {"kidney": "kidney"} and without.regions == (), "one organ of the region is left"
    assert find(tmp_path, B=["spleen"], X=["liver"]).organs == ("spleen", "liver")
    assert find(tmp_path, **datasets) == whole


def test_a_file_by_hand_counts_as_it_is(tmp_path):
    (tmp_path / FILE_NAME).write_text('{"datasets": {"A": {"liver": "hepar"}, "B": {"liver": "hepar"}}}')
    mapping = find(tmp_path, A=["liver"], B=["liver", "spleen"])
    assert mapping.organs == ("spleen", "hepar")


def test_a_region_of_a_dataset_that_a_user_removed_stays_removed(tmp_path):
    brain = {"whole tumour": [1, 2], "tumour core": 2}
    datasets = {"A": parse_labels(brain, None, []), "B": labels_of(["spleen"])}
    assert regions_of(find_mapping(tmp_path, datasets)) == {
        "whole tumour": ("whole tumour without tumour core", "tumour core")
    }
    edit(tmp_path, lambda content: content["regions"].clear())
    for _ in range(2):
        assert find_mapping(tmp_path, datasets).regions == ()


MANY = {f"name {number}": "liver" for number in range(100_000)}
BAD = [
    ("{", "cannot be read as JSON"),
    ("[]", "is not a mapping of labels"),
    ('{"datasets": 3}', "is not a mapping of labels"),
    ('{"datasets": {"A": null}}', "is not a mapping of labels"),
    ('{"datasets": {"A": "liver"}}', "is not a mapping of labels"),
    ('{"datasets": {}, "regions": []}', "is not a mapping of labels"),
    ('{"datasets": {"A": {"liver": 3}}}', "the label 'liver' means 3; expected null, or the name"),
    ('{"datasets": {"A": {"liver": ""}}}', "the label 'liver' means ''"),
    ('{"datasets": {"A": {"liver": " liver"}}}', "the label 'liver' means ' liver'"),
    ('{"datasets": {"A": {"liver": "\\ud83d"}}}', "the label 'liver' means '\\ud83d'"),
    (json.dumps({"datasets": {"A": {"liver": "x" * 201}}}), "up to 200 characters"),
    ('{"datasets": {"A": {"livr": "liver"}}}', "dataset 'A' has no label 'livr'. Did you mean 'liver'"),
    ('{"datasets": {"A": {"8": "liver"}}}', "dataset 'A' has no label '8'. Remove it; there are liver."),
    (json.dumps({"datasets": {"A": MANY}}), "has no label 'name 0'"),
    ('{"datasets": {"A": {"liver": null}, "B": {"spleen": null}}}', "no label means an organ"),
    ('{"datasets": {"A": {"liver": "Spleen"}}}', "'spleen' and 'Spleen' differ in upper and lower case alone"),
    ('{"datasets": {}, "regions": {"": ["liver", "spleen"]}}', "a region is called ''"),
    ('{"datasets": {}, "regions": {"a": ["liver"]}}', "the region 'a' unites ['liver']; expected a list of two"),
    ('{"datasets": {}, "regions": {"a": ["liver", "liver"]}}', "expected a list of two organs or more"),
    ('{"datasets": {}, "regions": {"a": "liver"}}', "expected a list of two organs or more"),
    (
        '{"datasets": {}, "regions": {"a": ["liver", "splen"]}}',
        "unites 'splen', which no label means. Did you mean 'spleen'",
    ),
    (json.dumps({"datasets": {}, "regions": {"a": list(MANY)}}), "unites 'name 0', which no label means"),
    (
        '{"datasets": {}, "regions": {"a": ["liver", "spleen"], "b": ["a", "liver"]}}',
        "the region 'b' unites 'a', which is a region itself. Name its organs: liver, spleen.",
    ),
    (json.dumps({"datasets": {}, "regions": {name: ["liver", "x"] for name in MANY}}), "unites 'x', which no label"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_file_that_cannot_be_is_an_error_that_says_so_and_stays(tmp_path, text, message):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(UsageError) as caught:
        find(tmp_path, A=["liver"], B=["spleen"])
    assert message in str(caught.value) and FILE_NAME in str(caught.value) and len(str(caught.value)) < 800
    assert (tmp_path / FILE_NAME).read_text() == text


def test_describe_mapping_has_a_line_for_each_organ_and_region_and_the_background(tmp_path):
    find(tmp_path, A=["lung", "stent"], B=["lung tumour"])
    edit(tmp_path, lambda content: content["datasets"]["A"].update(stent=None))
    assert describe_mapping(find(tmp_path, A=["lung", "stent"], B=["lung tumour"])) == [
        "lung  <- only within regions",
        "lung tumour  <- B: lung tumour",
        "lung with lung tumour = lung + lung tumour  <- A: lung",
        "(background)  <- A: stent",
    ]
