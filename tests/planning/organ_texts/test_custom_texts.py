import json

import pytest

from autoseg.errors import UsageError
from autoseg.planning.organ_texts.custom_texts import read_own_descriptions, use_own_descriptions
from autoseg.planning.organ_texts.organ_sentences import describe_organs


@pytest.fixture
def write(tmp_path):
    def write_file(content):
        path = tmp_path / "words.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write_file


def test_a_text_and_a_list_of_sentences_become_the_organs_sentences(make_fingerprint_of, write):
    path = write({"Liver": "  It is big. It is brown.\n", "gizmo": ["it is 3.5 mm wide", "a small thing!", "Odd."]})
    fingerprint, problems = use_own_descriptions(
        make_fingerprint_of(organs=("liver", "gizmo", "spleen")), read_own_descriptions(path)
    )
    organs, unknown = describe_organs(fingerprint)
    assert organs[0].sentences == ("It is big.", "It is brown.")
    assert organs[1].sentences == ("It is 3.5 mm wide.", "A small thing!", "Odd.")
    assert organs[2].sentences[0].startswith("The spleen is")
    assert problems == unknown == ()


@pytest.mark.parametrize(
    ("written", "organ"),
    [("kidney_left", "Left kidney"), ("OEDEMA", "edema"), ("Œil", "œil"), ("肝", "肝"), ("_", "_")],
)
def test_spelling_of_a_name_makes_no_difference(make_fingerprint_of, write, written, organ):
    own = read_own_descriptions(write({written: "Mine."}))
    fingerprint, problems = use_own_descriptions(make_fingerprint_of(organs=(organ, "脾 1")), own)
    assert [organ.description for organ in fingerprint.organs] == ["Mine.", None] and problems == ()


def test_names_in_other_letters_are_not_taken_for_each_other(make_fingerprint_of, write):
    own = read_own_descriptions(write({"肝 1": "Mine."}))
    fingerprint, problems = use_own_descriptions(make_fingerprint_of(organs=("脾 1",)), own)
    assert fingerprint.organs[0].description is None and len(problems) == 1


def test_the_file_wins_over_the_datasets_own_text(make_fingerprint_of, write):
    fingerprint = make_fingerprint_of(organs=("liver", "spleen"))
    organs = tuple(organ.model_copy(update={"description": "Of the dataset."}) for organ in fingerprint.organs)
    own = read_own_descriptions(write({"liver": "Of the file."}))
    used, _ = use_own_descriptions(fingerprint.model_copy(update={"organs": organs}), own)
    assert [organ.description for organ in used.organs] == ["Of the file.", "Of the dataset."]


def test_without_a_file_nothing_changes(make_fingerprint_of):
    fingerprint = make_fingerprint_of(organs=("liver",))
    assert use_own_descriptions(fingerprint, None) == (fingerprint, ())


def test_a_misspelt_name_is_a_warning_with_the_nearest_and_others_are_counted(make_fingerprint_of, write):
    own = read_own_descriptions(write({"livr": "A.", "spleen": "B.", "Spleens 2": "C.", "moon": "D.", "sun": "E."}))
    _, problems = use_own_descriptions(make_fingerprint_of(organs=("Liver", "spleen")), own)
    assert not any(problem.is_error or problem.case_id for problem in problems)
    first, second = (problem.message for problem in problems)
    assert first.endswith("words.json names 'livr', which is not an organ here. Did you mean 'Liver'?")
    assert second.endswith("words.json describes 'Spleens 2' and 2 more that are no organ of this dataset.")


def test_one_name_that_is_no_organ_is_named(make_fingerprint_of, write):
    _, (problem,) = use_own_descriptions(
        make_fingerprint_of(organs=("liver",)), read_own_descriptions(write({"moon": "D."}))
    )
    assert problem.message.endswith("describes 'moon', which is no organ of this dataset.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"words\.json cannot be read as JSON"),
        ('{"liver": "A.", "liver": "B."}', "'liver' occurs twice"),
        ("[" * 100_000, "--descriptions: "),
        (["The liver."], r"words\.json holds \['The liver\.'\]; expected an object"),
        ({"liver": 7}, "'liver' has 7. Expected a name with a text or a list of sentences"),
        ({"liver": " \n"}, r"'liver' has ' \\n'"),
        ({"liver": []}, r"'liver' has \[\]"),
        ({"liver": ["The liver.", 3]}, r"'liver' has \['The liver\.', 3\]"),
        ({"liver": {"what": "The liver."}}, "'liver' has {'what'"),
        ({" ": "Something."}, "' ' has 'Something.'"),
        ({"liver": None, "spleen": ""}, "'liver' has None; 'spleen' has ''"),
        (dict.fromkeys("abcdefg"), "'e' has None and 2 more"),
        ({"kidney_left": "A.", "Left kidney": "B."}, "'kidney_left' and 'Left kidney' are the same organ"),
    ],
)
def test_a_file_that_holds_no_descriptions_is_an_error_that_says_what_is_wrong(write, content, message):
    with pytest.raises(UsageError, match=message):
        read_own_descriptions(write(content))


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"--descriptions: .*none\.json does not exist"):
        read_own_descriptions(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"--descriptions: .* cannot be read"):
        read_own_descriptions(tmp_path)


def test_an_empty_object_describes_nothing(make_fingerprint_of, write):
    fingerprint = make_fingerprint_of(organs=("liver",))
    same, problems = use_own_descriptions(fingerprint, read_own_descriptions(write({})))
    assert same == fingerprint and problems == ()
