import pytest

from autoseg.datasets.labels import parse_labels
from autoseg.datasets.regions import Region, split_regions


def split(regions, named=None):
    problems = []
    parts, found = split_regions(regions, named=named or {}, problems=problems)
    return {part.value: (part.name, part.part_of) for part in parts}, found, [one.message for one in problems]


def errors_of(labels):
    problems = []
    parse_labels(labels, None, problems)
    return " ".join(problem.message for problem in problems if problem.is_error)


def test_nested_regions_have_a_part_for_each_step():
    parts, regions, problems = split({"whole": (1, 2, 3), "core": (2, 3)}, {3: "enhancing"})
    assert parts == {1: ("whole without core", ("whole",)), 2: ("core without enhancing", ("core",))}
    assert regions == (Region("whole", (1, 2, 3)), Region("core", (2, 3)))
    assert problems == []


def test_regions_that_cross_have_their_overlap_as_a_part():
    parts, _, problems = split({"a": (1, 2), "b": (3, 2)})
    assert parts == {1: ("a without b", ("a",)), 2: ("a and b", ("a", "b")), 3: ("b without a", ("b",))}
    assert problems == []


def test_values_with_names_of_their_own_are_no_parts():
    parts, regions, _ = split({"kidneys": (4, 9)}, {4: "left kidney", 9: "right kidney"})
    assert parts == {} and regions == (Region("kidneys", (4, 9)),)


def test_values_that_nothing_tells_apart_are_a_problem_and_keep_names_of_their_own():
    parts, _, (message,) = split({"whole": (1, 2, 5)}, {5: "core"})
    assert "the values 1 and 2 lie in the same regions (whole without core)" in message
    assert len({name for name, _ in parts.values()}) == 2


def test_two_regions_of_the_same_values_are_a_problem_and_one_is_kept():
    parts, regions, messages = split({"a": (1, 2), "b": (1, 2), "c": (2, 3)})
    assert "the regions 'a' and 'b' hold the same values; keep one." in messages
    assert [region.name for region in regions] == ["a", "c"] and parts[1][0] == "a without c"


def test_parse_labels_with_regions_has_organs_by_value_and_unions():
    problems = []
    labels = parse_labels({"background": 0, "whole": [3, 1], "core": [3], "ignore": 9}, None, problems)
    assert problems == []
    assert [(organ.name, organ.value, organ.part_of) for organ in labels.organs] == [
        ("whole without core", 1, ("whole",)),
        ("core", 3, ()),
    ]
    assert labels.regions == (Region("whole", (1, 3)),) and labels.ignore_value == 9


def test_parse_labels_takes_a_value_that_is_said_twice_once():
    assert [organ.value for organ in parse_labels({"liver": [2, 2]}, None, []).organs] == [2]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"whole": [0, 1]}, "label 'whole' has the values [0, 1]; expected a value or several, 1 to 65535."),
        ({"whole": []}, "label 'whole' has the values []"),
        ({"whole": [1, "x"]}, "label 'whole' has the values [1, 'x']"),
        ({"whole": [1, True]}, "label 'whole' has the values [1, True]"),
        ({"whole": [1, [2]]}, "label 'whole' has the values [1, [2]]"),
        ({"whole": [1, 70000]}, "expected a value or several, 1 to 65535"),
        ({" ": [1, 2]}, "the region of the values [1, 2] has no name; give it one."),
        ({"Whole": [1, 2], "whole": 3, "a": 1}, "a region and a label are both called 'Whole'; rename one."),
        ({"whole": [1, 9], "ignore": 9}, "the region 'whole' holds the ignored value; take it out."),
        ({"ignore": [8, 9], "liver": 1}, "'ignore' has several values; expected one."),
        ({"Background": [8, 9], "liver": 1}, "'Background' has several values; expected one."),
        ({f"r{k}": [k + 1, 60_000] for k in range(501)}, "there are 501 regions; expected at most 500. Remove some."),
        ({"1": [1, 2]}, "the label of value 1 has the name [1, 2]"),
    ],
)
def test_parse_labels_refuses_regions_that_cannot_be(labels, words):
    assert words in errors_of(labels)
