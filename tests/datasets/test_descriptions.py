from autoseg.datasets.labels import parse_labels

BRAIN = {"whole": [1, 2], "core": 2, "liver": 5}


def parse(labels, descriptions):
    problems = []
    organs = parse_labels(labels, descriptions, problems).organs
    return {organ.name: organ.description for organ in organs}, [problem.message for problem in problems]


def test_a_text_for_a_region_is_that_of_the_part_which_only_it_names():
    texts, problems = parse(BRAIN, {"Whole": " All of it. ", "core": "The core."})
    assert texts == {"whole without core": "whole without core. All of it.", "core": "The core.", "liver": None}
    assert problems == []


def test_a_text_for_the_part_itself_wins():
    texts, _ = parse(BRAIN, {"whole": "All of it.", "whole without core": "The rim."})
    assert texts["whole without core"] == "The rim."


def test_a_text_for_a_region_of_labels_with_names_is_of_no_use_and_told():
    texts, (message,) = parse({"kidney": [1, 2], "left": 1, "right": 2}, {"kidney": "It filters."})
    assert texts == {"left": None, "right": None}
    assert "the description of the region 'kidney' is of no use: describe the labels that it unites" in message
