import pytest

from autoseg.organs import mentions_side
from autoseg.organs.names import name_tokens


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("Kidney_Left", ("kidney", "left")),
        ("l-kidneys", ("kidney", "left")),
        ("head of the pancreas", ("head", "pancrea")),
        ("rib 07", ("7", "rib")),
        ("Œdème", ("edeme",)),
        ("uterus", ("uterus",)),
        ("l", ("l",)),
        ("", ()),
    ],
)
def test_name_tokens_gives_sorted_words(name: str, tokens: tuple[str, ...]) -> None:
    assert name_tokens(name) == tokens


@pytest.mark.parametrize("name", ["left kidney", "kidney_right", "Kidney_L", "rt_lung", "LungRight", "r eye"])
def test_mentions_side_word_or_suffix_is_true(name: str) -> None:
    assert mentions_side(["liver", name])


@pytest.mark.parametrize(
    "name", ["cleft", "bright spot", "vertebra L1", "rib", "colon", "r", "leftover", "type l cyst"]
)
def test_mentions_side_other_words_are_false(name: str) -> None:
    assert not mentions_side(["liver", name])


def test_mentions_side_no_names_is_false() -> None:
    assert not mentions_side([])
