"""What every stored structure must say, for each kind of scan, so that the text tower reads all of it."""

import re

import pytest

from autoseg.config.plans import TextPlan
from autoseg.network.text.text_encoder import tokenize_sentences
from autoseg.organs import Modality, describe_organ, known_names
from autoseg.organs.lookup import known_structures

NUM_REQUIRED = 150
MODALITIES: tuple[Modality, ...] = ("ct", "mri")


def test_there_are_as_many_structures_as_promised() -> None:
    assert len(set(known_names())) == len(known_names()) >= NUM_REQUIRED


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_structure_has_five_sentences_and_no_two_the_same_text(modality: Modality) -> None:
    texts = [describe_organ(name, modality=modality).sentences for name in known_names()]
    assert len(set(texts)) == len(texts) >= NUM_REQUIRED
    assert [text[0] for text in texts if len(text) < 5] == []


def test_no_sentence_is_cut_by_the_text_tower() -> None:
    sentences = [describe_organ(name, modality="unknown").sentences for name in known_names()]
    limit = TextPlan().max_tokens
    uncut = tokenize_sentences(
        sentences, max_tokens=10 * limit
    )  # L is that of the longest sentence, start and end counted
    assert 10 < uncut.tokens.shape[-1] <= limit


@pytest.mark.parametrize(
    ("field", "pattern"),
    [
        ("shape", r"\d mm\b"),
        ("ct", r"\d HU\b"),
        ("mri", r"\bT[12]\b"),
        ("ct", r"^On (contrast-enhanced )?CT "),
        ("mri", r"^On .*MRI"),
        ("confused_with", r"\btaken for\b|\blooks the same as\b"),
    ],
)
def test_every_structure_has_the_facts_of_each_field(field: str, pattern: str) -> None:
    texts = {item.name: item.texts[field] for item in known_structures()}
    assert len(texts) >= NUM_REQUIRED
    assert {name: text for name, text in texts.items() if not re.search(pattern, text)} == {}


def test_the_look_on_ct_is_not_told_by_mri_and_the_other_way_round() -> None:
    for item in known_structures():
        assert "MRI" not in item.texts["ct"], item.name
        assert not re.search(r"\bHU\b|\bCT\b", item.texts["mri"]), item.name


def test_what_and_where_of_one_side_name_the_other_side_only_where_anatomy_does() -> None:
    naming_the_other = set()
    for item in known_structures():
        side, _, rest = item.name.partition(" ")
        if side in ("left", "right") and rest:
            other = {"left": "right", "right": "left"}[side]
            if re.search(rf"\b{other}\b", f"{item.texts['what']} {item.texts['where']}"):
                naming_the_other.add(item.name)
    assert naming_the_other == {
        "left atrial body",  # between the veins of both sides
        "left brachiocephalic vein",  # crosses the midline
        "left iliac vein",  # likewise
        "right middle lobe of the lung",  # has no partner
        "right ventricle",  # wraps around the left one
        "right atrial appendage",  # points to the left
        "right superior pulmonary vein",  # ends in the left atrium
        "right inferior pulmonary vein",
    }
