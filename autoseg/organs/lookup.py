"""Looks up the sentences that describe an organ to the text encoder, by the organ's name.

Owns: the format of the JSON files (`CONTRIBUTING.md` shows how to add a structure), their expansion, the lookup.
Does not own: when two names are the same (`names.py`), and the encoder (`text/text_encoder.py`).

An entry has `name`, `synonyms` and one or two sentences for each of `what`, `where`, `shape`, `ct`, `mri` and
`confused_with`. With `"sided": true` it stands for two structures: `{side}` and `{opposite}` are filled in, and a text
may be `{"left": ..., "right": ...}`. With `levels` it stands for a series, such as the vertebrae: one structure per
level, whose values fill the placeholders of the same names; its `synonyms` are added to the entry's. The levels
`{"side": ""}, {"side": "left "}, {"side": "right "}` are for structures that datasets name with and without a side.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.organs.modality import Modality
from autoseg.organs.names import mentions_side, name_tokens
from autoseg.system.atomic_files import read_json

__all__ = [
    "Description",
    "Structure",
    "describe_organ",
    "known_names",
    "known_structures",
    "mentions_side",
    "structure_name",
]

FILES = ("abdomen", "thorax", "heart", "vessels", "muscles", "brain", "hippocampus", "skeleton")
TEXT_FIELDS = ("what", "where", "shape", "ct", "mri", "confused_with")
MAX_WORDS = 40  # about 60 text tokens, which is what the nano text tower reads
_LOOKS: dict[str, tuple[str, ...]] = {"ct": ("ct",), "mri": ("mri",), "unknown": ("ct", "mri")}
_IMAGES = {"ct": "a CT scan", "mri": "an MRI scan", "unknown": "a CT or MRI scan"}


@dataclass(frozen=True)
class Description:
    """The description of an organ for the text encoder.

    Attributes:
        name: The name that was asked for, unchanged.
        sentences: One or more sentences, each short enough for the text encoder.
        is_known: False if the sentences are only a template around the name, which deserves a warning.
    """

    name: str
    sentences: tuple[str, ...]
    is_known: bool


@dataclass(frozen=True)
class Structure:
    """One entry of the knowledge, sides and levels filled in."""

    name: str
    synonyms: tuple[str, ...]
    texts: Mapping[str, str]


def describe_organ(name: str, *, modality: Modality, own_text: str | None = None) -> Description:
    """Describe an organ in sentences.

    Args:
        name: The name in the dataset; case, word order, plural, spelling and common short forms do not matter.
        modality: Selects the sentences about the appearance; "unknown" selects those for CT and for MRI.
        own_text: The user's description, which replaces the built-in one; blank text counts as none.

    Returns:
        The description; for an unknown name a template with `is_known=False`, never an error.
    """
    if own_text is not None and (sentences := split_sentences(own_text)):
        return Description(name=name, sentences=sentences, is_known=True)
    structure = _index().get(name_tokens(name))
    if structure is None:
        return Description(name=name, sentences=_template(name, modality=modality), is_known=False)
    fields = ("what", "where", "shape", *_LOOKS[modality], "confused_with")
    texts = (structure.texts[field] for field in fields)
    return Description(name=name, sentences=tuple(itertools.chain(*map(split_sentences, texts))), is_known=True)


def structure_name(name: str) -> str | None:
    """Return the main name of the known structure with this name or synonym; None where there is none."""
    structure = _index().get(name_tokens(name))
    return None if structure is None else structure.name


def known_names() -> tuple[str, ...]:
    """Return the main name of every known structure, in the order of the files."""
    return tuple(structure.name for structure in known_structures())


@functools.cache
def known_structures() -> tuple[Structure, ...]:
    """Read and expand all stored entries."""
    folder = Path(__file__).parent / "knowledge"
    return tuple(
        structure for file in FILES for entry in read_json(folder / f"{file}.json") for structure in expand_entry(entry)
    )


def expand_entry(entry: Mapping[str, Any]) -> Iterator[Structure]:
    """Expand an entry to one structure per side or level; an entry without them is one structure."""
    sides = ({"side": "left", "opposite": "right"}, {"side": "right", "opposite": "left"})
    for side in sides if entry.get("sided") else ({},):
        for level in entry.get("levels", ({},)):
            values = {**side, **level}
            values = {**values, **{key: _fill(text, values) for key, text in level.items() if isinstance(text, str)}}
            synonyms = (*entry["synonyms"], *level.get("synonyms", ()))
            yield Structure(
                name=_fill(entry["name"], values),
                synonyms=tuple(_fill(synonym, values) for synonym in synonyms),
                texts={field: _fill(entry[field], values) for field in TEXT_FIELDS},
            )


def split_sentences(text: str) -> tuple[str, ...]:
    """Split text into sentences, and sentences over 40 words into pieces; white space is normalized."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])", " ".join(text.split()))
    pieces: list[str] = []
    for words in (sentence.split(" ") for sentence in sentences if sentence):
        pieces += [" ".join(words[start : start + MAX_WORDS]) for start in range(0, len(words), MAX_WORDS)]
    return tuple(pieces)


def _fill(text: str | Mapping[str, str], values: Mapping[str, Any]) -> str:
    if not isinstance(text, str):
        text = text[values["side"]]
    return text.format_map(values)


@functools.cache
def _index() -> dict[tuple[str, ...], Structure]:
    """Map the tokens of every name and synonym to its structure; a test checks that they are unique."""
    return {name_tokens(name): item for item in known_structures() for name in (item.name, *item.synonyms)}


def _template(name: str, *, modality: Modality) -> tuple[str, ...]:
    words = re.sub(r"[\W_]+", " ", name).split()
    shown = " ".join(words[:20])[:200] or "unnamed structure"
    sentences = [f"The {shown} is a structure of the body.", f"The {shown} is to be outlined in {_IMAGES[modality]}."]
    for side in ("left", "right"):
        if side in name_tokens(name):
            sentences.append(f"The {shown} lies on the {side} side of the body.")
    return tuple(sentences)
