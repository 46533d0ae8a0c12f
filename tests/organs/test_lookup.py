import json
from collections import Counter
from pathlib import Path

import pytest

from autoseg.organs import describe_organ, known_names
from autoseg.organs.lookup import FILES, TEXT_FIELDS, expand_entry, known_structures, split_sentences
from autoseg.organs.names import name_tokens

FOLDER = Path(__file__).parents[2] / "autoseg" / "organs" / "knowledge"
REAL_NAMES = Path(__file__).parents[2].parent / "shared" / "data" / "multi_organ_ct" / "label_names.json"


@pytest.mark.parametrize("file", FILES)
def test_every_entry_has_exactly_the_fields_of_the_format(file: str) -> None:
    entries = json.loads((FOLDER / f"{file}.json").read_text(encoding="utf-8"))
    assert entries
    for entry in entries:
        assert set(entry) - {"sided", "levels"} == {"name", "synonyms", *TEXT_FIELDS}, entry["name"]
        assert entry["synonyms"], entry["name"]


def test_every_json_file_is_read() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(FILES)


def test_no_name_or_synonym_stands_twice() -> None:
    counts = Counter(name_tokens(name) for item in known_structures() for name in (item.name, *item.synonyms))
    assert len(counts) > 500
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_sentence_belongs_to_two_structures() -> None:
    counts = Counter(
        sentence for name in known_names() for sentence in describe_organ(name, modality="unknown").sentences
    )
    assert [sentence for sentence, count in counts.items() if count > 1] == []


def test_every_sentence_is_short_names_no_placeholder_and_ends() -> None:
    for name in known_names():
        for sentence in describe_organ(name, modality="unknown").sentences:
            assert 4 <= len(sentence.split()) <= 40, sentence
            assert "{" not in sentence, sentence
            assert sentence.endswith("."), sentence


def test_every_structure_tells_shape_in_mm() -> None:
    for item in known_structures():
        assert " mm" in item.texts["shape"], item.name


def test_sentences_of_left_and_right_differ_and_name_their_side() -> None:
    pairs = [name for name in known_names() if name.startswith("left ")]
    paired = [name for name in pairs if name.replace("left", "right") in known_names()]
    assert len(paired) > 25
    for name in paired:
        left = describe_organ(name, modality="ct").sentences
        right = describe_organ(name.replace("left", "right"), modality="ct").sentences
        assert not set(left) & set(right), name
        assert "left" in left[0], name
        assert "right" in right[0], name


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("kidney_left", "left kidney"),
        ("Left Kidney", "left kidney"),
        ("KidneyL", "left kidney"),
        ("rt kidney", "right kidney"),
        ("LIVER", "liver"),
        ("gall_bladder", "gallbladder"),
        ("esophagus", "oesophagus"),
        ("non enhancing tumor", "non-enhancing tumour"),
        ("edema", "oedema"),
        ("vertebrae_L1", "vertebra L1"),
        ("T04", "vertebra T4"),
        ("seventh cervical vertebra", "vertebra C7"),
        ("atlas", "vertebra C1"),
        ("spine", "vertebrae"),
        ("rib_left_01", "left rib 1"),
        ("right 12th rib", "right rib 12"),
        ("clavicula_right", "right clavicle"),
        ("lung_upper_lobe_left", "left upper lobe of the lung"),
        ("postcava", "inferior vena cava"),
        ("hippocampus head", "anterior hippocampus"),
    ],
)
def test_describe_organ_spelling_of_the_name_makes_no_difference(written: str, stored: str) -> None:
    found = describe_organ(written, modality="mri")
    assert found.is_known
    assert found.name == written
    assert found.sentences == describe_organ(stored, modality="mri").sentences


@pytest.mark.parametrize("name", ["vertebra", "left", "rib 13 left", "kidney", "lung lobe", "C8", "", "___", "肝"])
def test_describe_organ_near_names_are_not_mixed_up(name: str) -> None:
    found = describe_organ(name, modality="ct")
    expected = {"vertebra": "vertebrae", "kidney": "kidneys"}.get(name)
    assert found.is_known == (expected is not None)
    if expected:
        assert found.sentences == describe_organ(expected, modality="ct").sentences


def test_describe_organ_modality_picks_the_look() -> None:
    ct, mri, both = (describe_organ("spleen", modality=modality).sentences for modality in ("ct", "mri", "unknown"))
    assert [sentence for sentence in ct if " MRI " in sentence] == []
    assert [sentence for sentence in mri if " CT " in sentence] == []
    assert set(both) == set(ct) | set(mri)
    assert len(ct) == len(mri) == len(both) - 1


def test_describe_organ_own_text_wins_and_is_split() -> None:
    found = describe_organ("spleen", modality="ct", own_text="  A red   thing. It is 3.5 mm wide! Really.\n")
    assert found.sentences == ("A red thing.", "It is 3.5 mm wide!", "Really.")
    assert found.is_known


def test_describe_organ_blank_own_text_counts_as_none() -> None:
    assert describe_organ("spleen", modality="ct", own_text=" \n").sentences[0].startswith("The spleen")


def test_describe_organ_unknown_name_gets_a_template() -> None:
    found = describe_organ("flux_capacitor_left", modality="mri")
    assert not found.is_known
    assert found.sentences == (
        "The flux capacitor left is a structure of the body.",
        "The flux capacitor left is to be outlined in an MRI scan.",
        "The flux capacitor left lies on the left side of the body.",
    )


def test_describe_organ_endless_unknown_name_stays_short() -> None:
    found = describe_organ("x" * 5000 + " y" * 5000, modality="ct")
    assert all(len(sentence) < 300 for sentence in found.sentences)


def test_split_sentences_long_sentence_is_cut_into_pieces() -> None:
    assert [len(piece.split()) for piece in split_sentences("word " * 90)] == [40, 40, 10]


def test_expand_entry_sides_and_levels_multiply() -> None:
    entry = {
        "name": "{side} toe {n}",
        "sided": True,
        "levels": [{"n": "1", "synonyms": ["{side} big toe"], "place": "on the {side}"}, {"n": "2", "place": "next"}],
        "synonyms": ["{side} digit {n}"],
        **dict.fromkeys(TEXT_FIELDS, "{place}"),
        "where": {"left": "L{n}", "right": "R{n}"},
    }
    toes = list(expand_entry(entry))
    assert [toe.name for toe in toes] == ["left toe 1", "left toe 2", "right toe 1", "right toe 2"]
    assert toes[2].synonyms == ("right digit 1", "right big toe")
    assert toes[2].texts["what"] == "on the right"
    assert [toe.texts["where"] for toe in toes] == ["L1", "L2", "R1", "R2"]


@pytest.mark.data
def test_describe_organ_every_name_of_the_real_scans_is_known() -> None:
    if not REAL_NAMES.exists():
        pytest.skip(f"{REAL_NAMES} is not there")
    names = [name for names in json.loads(REAL_NAMES.read_text()).values() for name in names]
    assert len(names) == 167
    assert [name for name in names if not describe_organ(name, modality="ct").is_known] == []
