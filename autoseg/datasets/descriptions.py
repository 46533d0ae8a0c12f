"""Reads the descriptions of organs that a user wrote into `dataset.json`.

Owns: the form of `descriptions`.
Does not own: descriptions in a separate file (`organ_texts/custom_texts.py`), labels (`labels.py`).
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from autoseg.errors import Problem

MAX_NAME_COMPARED = 200  # letters; likeness takes their square


def read_descriptions(
    content: Any, *, organs: Mapping[str, tuple[str, ...]], regions: Iterable[str], problems: list[Problem]
) -> dict[str, str]:
    """Assign texts to organs by name, ignoring case.

    Args:
        content: {name of an organ or region: text}, or None; untrusted.
        organs: The organs, each with the regions that define it where only regions have names.
        regions: The names of all regions.
        problems: The list that problems are added to.

    Returns:
        The texts by organ; an organ without a text of its own has those of the regions that it is part of.
    """
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        problems.append(Problem("", f'descriptions is {content!r:.80}; expected {{"liver": "The liver is..."}}.'))
        return {}
    names = [*organs, *regions]
    known = {name.casefold() for name in names}
    texts: dict[str, str] = {}
    for name, text in content.items():
        if name.strip().casefold() not in known:
            near = difflib.get_close_matches(name[:MAX_NAME_COMPARED], names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            problems.append(
                Problem("", f"descriptions names {name!r:.80}, which is not a label.{hint}", is_error=False)
            )
        elif not isinstance(text, str) or not text.strip():
            problems.append(Problem("", f"the description of {name!r} is {text!r:.60}; expected a sentence or more."))
        else:
            texts[name.strip().casefold()] = text.strip()
    known = {name.casefold() for name in organs} | {one.casefold() for parts in organs.values() for one in parts}
    for name in regions:
        if name.casefold() in texts and name.casefold() not in known:
            message = f"the description of the region {name!r} is of no use: describe the labels that it unites."
            problems.append(Problem("", message, is_error=False))
    found = {name: texts.get(name.casefold()) or part_text(name, parts, texts) for name, parts in organs.items()}
    return {name: text for name, text in found.items() if text}


def part_text(name: str, regions: Iterable[str], texts: Mapping[str, str]) -> str | None:
    """Describe a part by the texts of its regions, {name in lower case: text}; None where there are none."""
    found = [texts[region.casefold()] for region in regions if region.casefold() in texts]
    return f"{name}. {' '.join(found)}" if found else None
