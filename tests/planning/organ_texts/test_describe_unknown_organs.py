import pytest

from autoseg.errors import UsageError
from autoseg.organs.llm_texts import Server
from autoseg.planning.organ_texts import describe_unknown_organs
from autoseg.system.atomic_files import read_json, write_json

SERVER = Server("http://127.0.0.1:9", "small")


@pytest.fixture
def asked(monkeypatch):
    names = []

    def answer(name, *, modality, server):
        assert modality == "mri" and server is SERVER
        if name == "refused":
            raise UsageError("no")
        names.append(name)
        return f"The {name} is odd. It lies somewhere."

    monkeypatch.setattr(describe_unknown_organs, "ask_description", answer)
    return names


def test_only_unknown_organs_are_asked_for_and_only_once(make_fingerprint_of, asked, tmp_path):
    fingerprint = make_fingerprint_of(organs=("liver", "gizmo", "widget"))
    added = describe_unknown_organs.add_descriptions(fingerprint, run_folder=tmp_path, server=SERVER)
    assert asked == ["gizmo", "widget"]
    assert [organ.description for organ in added.organs] == [
        None,
        "The gizmo is odd. It lies somewhere.",
        "The widget is odd. It lies somewhere.",
    ]
    again = describe_unknown_organs.add_descriptions(fingerprint, run_folder=tmp_path, server=SERVER)
    assert asked == ["gizmo", "widget"] and again == added
    assert describe_unknown_organs.add_descriptions(fingerprint, run_folder=tmp_path, server=None) == added


def test_nobody_is_asked_unless_a_server_is_named(make_fingerprint_of, asked, tmp_path):
    fingerprint = make_fingerprint_of(organs=("gizmo",))
    assert describe_unknown_organs.add_descriptions(fingerprint, run_folder=tmp_path, server=None) == fingerprint
    assert asked == [] and list(tmp_path.iterdir()) == []


def test_the_users_own_text_wins_and_an_edited_answer_counts(make_fingerprint_of, asked, tmp_path):
    fingerprint = make_fingerprint_of(organs=("gizmo", "widget"))
    own = fingerprint.organs[0].model_copy(update={"description": "Mine."})
    fingerprint = fingerprint.model_copy(update={"organs": (own, fingerprint.organs[1])})
    write_json(tmp_path / "descriptions.json", {"gizmo": "Not used.", "widget": "Edited by hand."})
    added = describe_unknown_organs.add_descriptions(fingerprint, run_folder=tmp_path, server=SERVER)
    assert [organ.description for organ in added.organs] == ["Mine.", "Edited by hand."] and asked == []


def test_answers_before_a_failure_are_kept(make_fingerprint_of, asked, tmp_path):
    with pytest.raises(UsageError, match="no"):
        describe_unknown_organs.add_descriptions(
            make_fingerprint_of(organs=("gizmo", "refused")), run_folder=tmp_path, server=SERVER
        )
    assert list(read_json(tmp_path / "descriptions.json")) == ["gizmo"]


@pytest.mark.parametrize("content", [[], {"gizmo": 3}])
def test_a_spoiled_file_of_answers_is_named(make_fingerprint_of, asked, tmp_path, content):
    write_json(tmp_path / "descriptions.json", content)
    with pytest.raises(UsageError, match=r"descriptions\.json"):
        describe_unknown_organs.add_descriptions(
            make_fingerprint_of(organs=("gizmo",)), run_folder=tmp_path, server=SERVER
        )
