"""Reads a user's descriptions of organs from a file; they replace those in `dataset.json` and the built-in ones.

Owns: the form of the file, how its names are matched with organs, and the warnings for names without an organ.
Does not own: descriptions in `dataset.json` (`datasets/labels.py`), answers of a language model
(`organ_texts/describe_unknown_organs.py`).

The file is a JSON object of {name: text} or {name: [sentence, ...]}. One file may be used for several datasets.
"""

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.datasets.descriptions import part_text
from autoseg.errors import Problem, UsageError, printable
from autoseg.organs.names import name_tokens
from autoseg.organs.relations import organ_key
from autoseg.planning.fingerprint.fingerprint import Fingerprint, OrganEntry
from autoseg.system.atomic_files import read_json

MAX_FAULTS_SHOWN = 5
MAX_NAME_COMPARED = 200  # letters; likeness takes their square
EXAMPLE = '{"liver": "The liver is ...", "gizmo": ["First sentence.", "Second sentence."]}'


@dataclass(frozen=True)
class OwnDescriptions:
    """The content of a file.

    Attributes:
        source: The option and the file, for messages.
        texts: The texts by name as written; no two names mean the same organ.
    """

    source: str
    texts: Mapping[str, str]


def read_own_descriptions(path: Path) -> OwnDescriptions:
    """Read a file of names with their texts; the sentences of a list become one text.

    Raises:
        UsageError: The file is missing or not a JSON object, a value is not text, or an organ is named twice.
    """
    source = f"--descriptions {printable(str(path))}"
    try:
        content = read_json(path)
    except UsageError as error:
        raise UsageError(f"--descriptions: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{source} holds {content!r:.60}; expected an object such as {EXAMPLE}.")
    faults = [f"{name!r:.80} has {text!r:.60}" for name, text in content.items() if not name.strip() or not _text(text)]
    if faults:
        more = f" and {len(faults) - MAX_FAULTS_SHOWN} more" if len(faults) > MAX_FAULTS_SHOWN else ""
        shown = "; ".join(faults[:MAX_FAULTS_SHOWN])
        raise UsageError(f"{source}: {shown}{more}. Expected a name with a text or a list of sentences, as {EXAMPLE}.")
    names: dict[tuple[str, ...], str] = {}
    for name in content:
        if (first := names.setdefault(_key(name), name)) != name:
            raise UsageError(f"{source}: {first!r:.80} and {name!r:.80} are the same organ. Keep one of them.")
    return OwnDescriptions(source, {name: _text(text) for name, text in content.items()})


def use_own_descriptions(
    fingerprint: Fingerprint, own: OwnDescriptions | None
) -> tuple[Fingerprint, tuple[Problem, ...]]:
    """Assign the texts to organs by name; differences in spelling are ignored as for built-in names.

    Texts may name an organ by a synonym or by its name in one of several datasets; a part without a name of its own
    gets the texts of its regions.

    Args:
        fingerprint: The fingerprint of the dataset.
        own: The content of the user's file; None without a file.

    Returns:
        The fingerprint with descriptions; a warning for each name that looks like a misspelled organ, and one for all
        other names without an organ.
    """
    if own is None:
        return fingerprint, ()
    finder = _Texts(own, fingerprint)
    organs = tuple(
        organ.model_copy(update={"description": finder.find(organ) or organ.description})
        for organ in fingerprint.organs
    )
    unused = [name for name in own.texts if name not in finder.used]
    regions = {_key(region.name) for region in fingerprint.regions}
    of_regions = tuple(
        Problem("", f"{own.source} describes the region {name!r:.80}: describe its organs instead.", is_error=False)
        for name in unused
        if _key(name) in regions
    )
    unused = [name for name in unused if _key(name) not in regions]
    without = {organ.name.casefold(): organ.name for organ in fingerprint.organs if organ.name not in finder.described}
    warnings = of_regions + _warnings(unused, without=without, source=own.source)
    return fingerprint.model_copy(update={"organs": organs}), warnings


class _Texts:
    """The texts of a file, found by an organ's name, its names in datasets, its synonyms, or its regions.

    Attributes:
        used: The names in the file whose texts were used.
        described: The names of the organs with these texts.
    """

    def __init__(self, own: OwnDescriptions, fingerprint: Fingerprint) -> None:
        """Index the texts by name, and by the meaning of names that mean one organ."""
        self.used: set[str] = set()
        self.described: set[str] = set()
        self._texts = own.texts
        self._name_of = {_key(name): name for name in own.texts}
        meant = Counter(organ_key(organ.name) for organ in fingerprint.organs)
        names = {organ_key(name): name for name in own.texts}
        self._synonym_of = {key: name for key, name in names.items() if key is not None and meant[key] == 1}
        self._aliases: dict[str, list[str]] = {}
        for dataset in fingerprint.datasets:
            for label in dataset.labels:
                if label.maps_to is not None:
                    self._aliases.setdefault(label.maps_to, []).append(label.name)

    def find(self, organ: OrganEntry) -> str | None:
        """Return the text of an organ; None if the file has none."""
        keys = [_key(name) for name in (organ.name, *self._aliases.get(organ.name, ()))]
        meaning = organ_key(organ.name)
        name = next((self._name_of[key] for key in keys if key in self._name_of), None)
        name = name or (None if meaning is None else self._synonym_of.get(meaning))
        if name is not None:
            self.used.add(name)
            self.described.add(organ.name)
            return self._texts[name]
        regions = [self._name_of[_key(region)] for region in organ.part_of if _key(region) in self._name_of]
        self.used.update(regions)
        return part_text(organ.name, regions, {region.casefold(): self._texts[region] for region in regions})


def _text(value: Any) -> str:
    """Return a text, or "" if a value is not text; sentences of a list are capitalized and end with a full stop."""
    if isinstance(value, str):
        return value.strip()
    if not isinstance(value, list) or not all(isinstance(sentence, str) and sentence.strip() for sentence in value):
        return ""
    tidy = [sentence.strip() for sentence in value]
    ended = [sentence if sentence.endswith((".", "!", "?")) else f"{sentence}." for sentence in tidy]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in ended)


def _key(name: str) -> tuple[str, ...]:
    """Return a key that is equal for "kidney_left" and "Left kidney"; names with non-ASCII letters must be equal."""
    return (name_tokens(name) if name.isascii() else ()) or (name.strip().casefold(),)


def _warnings(unused: list[str], *, without: Mapping[str, str], source: str) -> tuple[Problem, ...]:
    """Name the nearest of the organs `without` a text of the file, {name in lower case: name}."""
    messages, others = [], []
    for name in unused:
        near = difflib.get_close_matches(name.casefold()[:MAX_NAME_COMPARED], without, n=1)
        if near:
            organ = without[near[0]]
            messages.append(f"{source} names {name!r:.80}, which is not an organ here. Did you mean {organ!r:.80}?")
        else:
            others.append(name)
    if others:
        num_more = f" and {len(others) - 1} more that are" if len(others) > 1 else ", which is"
        messages.append(f"{source} describes {others[0]!r:.80}{num_more} no organ of this dataset.")
    return tuple(Problem("", message, is_error=False) for message in messages)
