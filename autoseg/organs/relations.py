"""Decides whether two names mean the same organ, its left and right sides, or an organ and its lesion.

Owns: `organ_key`, `is_other_side`, `FinerNames`.
Does not own: how names are spelt (`names.py`), what is known of organs (`lookup.py`), labels of datasets.

A name is *vague* if each dataset gives it another meaning ("cancer", "label 1", "left"): it equals no other name, even
one with the same spelling.
"""

import functools
import re
import unicodedata
from collections.abc import Collection, Iterable

from autoseg.organs.lookup import structure_name
from autoseg.organs.names import name_tokens

SIDES = frozenset({"left", "right"})
# words that make a part of an organ of its name
LESION_WORDS = frozenset({"tumor", "lesion", "cancer", "cyst", "metastasis", "nodule", "mass", "carcinoma"})
# words that by themselves mean another thing in each dataset
VAGUE_WORDS = LESION_WORDS | {
    *("edema", "core", "enhancing", "whole", "necrosis", "necrotic", "infection", "calcification", "abnormality"),
    *("label", "class", "value", "mask", "seg", "segmentation", "organ", "structure", "object", "roi", "region"),
    *("target", "foreground", "background", "ignore", "unknown", "other", "tissue", "fat", "fluid", "air", "gland"),
    *("vessel", "artery", "vein", "bone", "muscle", "nerve", "node", "duct", "wall", "lumen", "cavity", "lobe"),
    *("ventricle", "hemisphere", "horn", "cortex", "head", "body", "tail", "left", "right", "upper", "lower", "side"),
    *("anterior", "posterior", "inner", "outer", "big", "small", "new", "old", "part", "no", "not", "with", "without"),
}
# words that say in which organ a lesion is
ADJECTIVES = {
    **{"hepatic": "liver", "pancreatic": "pancreas", "renal": "kidney", "pulmonary": "lung", "splenic": "spleen"},
    **{
        "colonic": "colon",
        "gastric": "stomach",
        "prostatic": "prostate",
        "cerebral": "brain",
        "cerebellar": "cerebellum",
    },
}
_CODE = re.compile(r"[a-z]?[0-9]*")  # "1", "b", "x2"


def organ_key(name: str) -> tuple[str, ...] | None:
    """Return a key that is equal for all names of one organ, whatever their spelling; None for a vague name."""
    known = structure_name(name) if not _loses_letters(name) else None
    if known is not None:
        return ("known", known)
    if _loses_letters(name):  # of another script: only the very same name
        return ("text", " ".join(unicodedata.normalize("NFC", name).casefold().split()))
    tokens = name_tokens(name)
    if all(token in VAGUE_WORDS or _CODE.fullmatch(token) for token in tokens):
        return None
    return ("words", *tokens)


class FinerNames:
    """Finds the names that are more specific than another name: its sides, and its lesions."""

    def __init__(self, names: Iterable[str]) -> None:
        """Sort the names; vague ones are part of nothing."""
        self._places = {name: place for place, name in enumerate(dict.fromkeys(names))}
        self._of_words: dict[frozenset[str], list[str]] = {}
        self._lesions: dict[frozenset[str], list[str]] = {}
        for name in self._places:
            if organ_key(name) is None:
                continue
            words = organ_words(name)
            self._of_words.setdefault(words, []).append(name)
            if words & LESION_WORDS:
                place = frozenset(_noun(word) for word in words - LESION_WORDS - SIDES)
                self._lesions.setdefault(place, []).append(name)

    def halves_of(self, name: str, *, without: Collection[str] = ()) -> tuple[str, ...]:
        """Return the left and the right organ for a name without a side; () unless both are there.

        Args:
            name: The name of an organ.
            without: Names to skip.
        """
        words = organ_words(name)
        if organ_key(name) is None or words & SIDES:
            return ()
        found = [[one for one in self._of_words.get(words | {side}, ()) if one not in without] for side in SIDES]
        return (
            tuple(sorted((one for side in found for one in side), key=self._places.__getitem__)) if all(found) else ()
        )

    def lesions_of(self, name: str, *, without: Collection[str] = ()) -> tuple[str, ...]:
        """Return the lesions in an organ, such as its tumor: those on its side, or without a side."""
        words = organ_words(name)
        if organ_key(name) is None or words & LESION_WORDS:
            return ()
        found = (one for one in self._lesions.get(words - SIDES, ()) if one not in without)
        return tuple(one for one in found if not is_other_side(one, name))


def is_other_side(name: str, organ: str) -> bool:
    """Return whether a name mentions the side opposite to that of an organ; False for an organ without a side."""
    sides, own = organ_words(name) & SIDES, organ_words(organ) & SIDES
    return bool(sides) and bool(own) and not sides & own


@functools.lru_cache(maxsize=20_000)
def organ_words(name: str) -> frozenset[str]:
    """Return the words of a name; for a known structure, those of its main name."""
    known = None if _loses_letters(name) else structure_name(name)
    return frozenset(name_tokens(known or name))


def _noun(word: str) -> str:
    """Return the noun of an adjective that stands for an organ, as `name_tokens` spells it."""
    return name_tokens(ADJECTIVES[word])[0] if word in ADJECTIVES else word


def _loses_letters(name: str) -> bool:
    """Return whether a name has letters that `name_tokens` drops."""
    text = unicodedata.normalize("NFKD", name.replace("œ", "oe").replace("Œ", "Oe"))
    return any(letter.isalpha() and not letter.isascii() for letter in text)
