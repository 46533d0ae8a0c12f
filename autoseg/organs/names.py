"""Makes names of structures comparable, however datasets spell them.

Owns: `name_tokens` and `mentions_side`. Does not own: what a name stands for (`lookup.py`).

"kidney_left", "Left Kidney", "KidneyL", "lt kidney" and "left kidneys" all have the tokens (kidney, left).
"""

import re
import unicodedata
from collections.abc import Iterable

_SIDES = {"l": "left", "lt": "left", "lh": "left", "r": "right", "rt": "right", "rh": "right"}
_ORDINALS = ["zeroth", "first", "second", "third", "fourth", "fifth", "sixth"]
_ORDINALS += ["seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"]  # the index is the number
_DROPPED = {"of", "the", "a", "an", "and"}

# British and other spellings to one of them; parts of words, in this order.
_SPELLINGS = (
    ("oesoph", "esoph"),
    ("oedem", "edem"),
    ("tumour", "tumor"),
    ("haem", "hem"),
    ("coeliac", "celiac"),
    ("disk", "disc"),
    ("center", "center"),
)


def name_tokens(name: str) -> tuple[str, ...]:
    """Return the words of a name in one spelling, singular, sorted, so that equal names compare equal.

    Case, underscores, hyphens, word order, plurals, British spelling, ordinals and short forms of left and right
    make no difference. A name without a letter or digit gives ().
    """
    return tuple(sorted(_uniform(word) for word in _words(name) if word not in _DROPPED))


def mentions_side(names: Iterable[str]) -> bool:
    """Return whether any name mentions left or right, as a word or as a short form (l, r, lt, rt) at either end.

    Such a dataset must not be mirrored from left to right: "kidney_left" mirrored shows a right kidney.
    """
    return any(word in ("left", "right") for name in names for word in _words(name))


def _words(name: str) -> list[str]:
    text = unicodedata.normalize("NFKD", name.replace("œ", "oe").replace("Œ", "Oe"))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)  # kidneyLeft -> kidney Left
    words = re.findall(r"[a-z0-9]+", text.lower().replace("'s ", " "))
    return [
        _SIDES[word] if word in _SIDES and len(words) > 1 and index in (0, len(words) - 1) else word
        for index, word in enumerate(words)
    ]


def _uniform(word: str) -> str:
    for ours, theirs in _SPELLINGS:
        word = word.replace(ours, theirs)
    if word in _ORDINALS:
        return str(_ORDINALS.index(word))
    if match := re.fullmatch(r"([a-z]?)0*(\d+)(?:st|nd|rd|th)?", word):  # 1st -> 1, t01 -> t1
        return match[1] + match[2]
    if word == "vertebrae":
        return "vertebra"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word.removesuffix("s")
    return word
