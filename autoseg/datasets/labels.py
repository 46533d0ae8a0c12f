"""Reads and checks what a dataset states about its organs and channels.

Owns: `Organ`, `LabelSet`; the forms in which `dataset.json` names labels and channels; labels found in label maps.
Does not own: which files belong to which case (`layouts.py`), the parts of regions (`regions.py`),
descriptions of organs (`organs/`).

Two forms of labels are read: {"liver": 1} of nnU-Net, also with regions ({"liver": [1, 2], "tumour": 2}), and
{"1": "liver"} of the Medical Segmentation Decathlon (MSD).
Problems are collected instead of raised.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.datasets.descriptions import read_descriptions
from autoseg.datasets.regions import Region, split_regions
from autoseg.errors import Problem, ScanFileError
from autoseg.io.image import read_labels

MAX_VALUE = 65535  # label maps are stored as uint8 or uint16
MAX_NAME_LENGTH = 200
MAX_CHANNELS = 32
MAX_REGIONS = 500  # nested in each other they take seconds
ListValues = Callable[[Path], Iterable[int]]
_BACKGROUND_NAMES = {"background", "bg", "none", "unlabeled", "clear label", "air", "unknown", "exterior"}


@dataclass(frozen=True)
class Organ:
    """One structure to segment.

    Attributes:
        name: The name as the dataset spells it.
        value: The value in the label maps, 1 to 65535.
        description: The user's description; None uses the built-in one.
        part_of: The regions that define the organ, if it is a part that only regions name.
    """

    name: str
    value: int
    description: str | None = None
    part_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelSet:
    """The meaning of the values of the label maps; 0 is the background.

    Attributes:
        organs: The organs in the order of their values; no voxel belongs to two.
        ignore_value: The value of voxels that are ignored; None where there is none.
        regions: Named unions of organs.
    """

    organs: tuple[Organ, ...]
    ignore_value: int | None = None
    regions: tuple[Region, ...] = ()


def parse_labels(labels: Any, descriptions: Any, problems: list[Problem]) -> LabelSet:
    """Read the `labels` and `descriptions` of a dataset file; faults are added to `problems`.

    Args:
        labels: {name: value} or {value: name}, or with regions {name: [value, ...]}; untrusted.
        descriptions: {organ name: text} or None; untrusted.
        problems: The list that problems are added to.
    """
    if not isinstance(labels, Mapping):
        problems.append(Problem("", f'labels is {labels!r:.80}; expected an object such as {{"liver": 1}}.'))
        return LabelSet(organs=())
    organs: list[Organ] = []
    ignore_value = None
    pairs, unions = _name_value_pairs(labels, problems)
    for name, value in pairs:
        if value == 0:
            _check_background(name, problems)
        elif name.casefold() == "ignore":
            if ignore_value is not None:
                problems.append(Problem("", f"the values {ignore_value} and {value} are both called ignore; keep one."))
            ignore_value = value
        elif name.casefold() == "background":
            problems.append(Problem("", f"background has the value {value}; expected 0."))
        else:
            organs.append(Organ(name=_short(name, problems), value=value))
    if len(unions) > MAX_REGIONS:
        problems.append(Problem("", f"there are {len(unions)} regions; expected at most {MAX_REGIONS}. Remove some."))
        unions = {}
    named = {organ.value: organ.name for organ in organs}
    parts, regions = split_regions(unions, named=named, problems=problems)
    organs += [Organ(_short(part.name, problems), part.value, part_of=part.part_of) for part in parts]
    organs.sort(key=lambda organ: organ.value)
    used = [*organs, *([Organ("ignore", ignore_value)] if ignore_value is not None else [])]
    _check_distinct(used, problems)
    _check_regions(regions, used, problems)
    texts = read_descriptions(
        descriptions,
        organs={organ.name: organ.part_of for organ in organs},
        regions=[region.name for region in regions],
        problems=problems,
    )
    described = tuple(replace(organ, description=texts.get(organ.name)) for organ in organs)
    return LabelSet(organs=described, ignore_value=ignore_value, regions=regions)


def list_label_values(path: Path) -> list[int]:
    """List the values of a label map that may be organs, in ascending order.

    Raises:
        ScanFileError: The file cannot be read.
    """
    labels = read_labels(path).array_zyx
    is_small = labels.dtype in (np.uint8, np.uint16)
    found = np.flatnonzero(np.bincount(labels.ravel())) if is_small else np.unique(labels)  # bincount is fast
    return [int(value) for value in found if 0 < value <= MAX_VALUE]


def discover_labels(label_paths: Iterable[Path], problems: list[Problem], *, list_values: ListValues) -> LabelSet:
    """Name the values that occur in label maps "label 1", "label 2"..., with a warning.

    A file that cannot be read is skipped here and reported when the cases are read.
    """
    values: set[int] = set()
    for path in label_paths:
        with suppress(ScanFileError):
            values.update(list_values(path))
    organs = tuple(Organ(name=f"label {value}", value=value) for value in sorted(values))
    if organs:
        problems.append(
            Problem(
                "",
                f"no names of labels were found, so the organs are called {organs[0].name!r} and so on. Their text "
                'then says nothing: write a labels.json such as {"liver": 1} beside the scans.',
                is_error=False,
            )
        )
    return LabelSet(organs=organs)


def parse_channel_names(content: Mapping[str, Any], problems: list[Problem]) -> tuple[str, ...] | None:
    """Read `channel_names` (or the older `modality`), in the order of the channels; None where there are none."""
    key = "channel_names" if "channel_names" in content else "modality"
    names = content.get(key)
    if names is None:
        return None
    if isinstance(names, str):
        names = [names]
    if isinstance(names, list):
        names = {str(index): name for index, name in enumerate(names)}
    if not isinstance(names, Mapping) or not 1 <= len(names) <= MAX_CHANNELS:
        problems.append(Problem("", f'{key} is {names!r:.80}; expected 1 to {MAX_CHANNELS} such as {{"0": "CT"}}.'))
        return None
    missing = [str(index) for index in range(len(names)) if str(index) not in names]
    if missing:
        problems.append(Problem("", f"{key} has the keys {list(names)!r:.200}; expected 0 to {len(names) - 1}."))
        return None
    ordered = [names[str(index)] for index in range(len(names))]
    if not all(isinstance(name, str) and name.strip() for name in ordered):
        problems.append(Problem("", f"{key} holds {ordered!r:.80}; expected a name for each channel."))
        return None
    return tuple(_short(name.strip(), problems) for name in ordered)


def _name_value_pairs(
    labels: Mapping[Any, Any], problems: list[Problem]
) -> tuple[list[tuple[str, int]], dict[str, tuple[int, ...]]]:
    """Return the names with one value, and those with several."""
    is_by_value = bool(labels) and all(_integer(key) is not None for key in labels)
    is_by_value = is_by_value and not any(isinstance(value, int) for value in labels.values())
    pairs = []
    unions: dict[str, tuple[int, ...]] = {}
    for key, content in labels.items():
        name, value = (content, key) if is_by_value else (key, content)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]  # a region of one value is that value
        if isinstance(value, list):
            numbers = [_integer(one) for one in value]
            if not numbers or not all(one is not None and 0 < one <= MAX_VALUE for one in numbers):
                message = f"label {name!r} has the values {value!r:.60}; expected a value or several, 1 to {MAX_VALUE}."
                problems.append(Problem("", message))
            elif not isinstance(name, str) or not name.strip():
                problems.append(Problem("", f"the region of the values {value!r:.60} has no name; give it one."))
            else:
                unions[_short(name.strip(), problems)] = tuple(sorted({one for one in numbers if one is not None}))
            continue
        number = _integer(value)
        if number is None or not 0 <= number <= MAX_VALUE:
            problems.append(Problem("", f"label {name!r} has the value {value!r:.60}; expected 0 to {MAX_VALUE}."))
        elif not isinstance(name, str) or not name.strip():
            problems.append(Problem("", f"the label of value {number} has the name {name!r:.60}; give it a name."))
        else:
            pairs.append((name.strip(), number))
    pairs += [(name, values[0]) for name, values in unions.items() if len(values) == 1]
    return pairs, {name: values for name, values in unions.items() if len(values) > 1}


def _integer(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value.strip()) else None


def _check_background(name: str, problems: list[Problem]) -> None:
    if name.casefold().replace("_", " ") not in _BACKGROUND_NAMES:
        message = f"value 0 is called {name!r}; 0 is always the background and is not segmented as an organ."
        problems.append(Problem("", message, is_error=False))


def _short(name: str, problems: list[Problem]) -> str:
    if len(name) <= MAX_NAME_LENGTH:
        return name
    message = f"the name {name[:40]!r}... has {len(name)} characters; it is cut after {MAX_NAME_LENGTH}."
    problems.append(Problem("", message, is_error=False))
    return name[:MAX_NAME_LENGTH].rstrip()


def _check_distinct(organs: list[Organ], problems: list[Problem]) -> None:
    values: dict[int, str] = {}
    names: dict[str, str] = {}
    words: dict[tuple[str, ...], str] = {}
    for organ in organs:
        if organ.value in values:
            message = f"{values[organ.value]!r} and {organ.name!r} share the value {organ.value}; give each its own."
            problems.append(Problem("", message))
        key = organ.name.casefold()
        same_words = tuple(sorted(re.findall(r"\w+", key.replace("_", " "))))
        if key in names:
            problems.append(Problem("", f"the organ name {organ.name!r} occurs twice; give each label its own."))
        elif same_words and same_words in words:
            message = f"{words[same_words]!r} and {organ.name!r} read as the same organ."
            problems.append(Problem("", message, is_error=False))
        values[organ.value], names[key], words[same_words] = organ.name, organ.name, organ.name


def _check_regions(regions: Iterable[Region], labels: Iterable[Organ], problems: list[Problem]) -> None:
    """Refuse a region with the name of a label, and one that contains the ignored value."""
    names = {label.name.casefold() for label in labels}
    reserved = {"background", "ignore"}
    ignored = {label.value for label in labels if label.name.casefold() == "ignore"}
    for region in regions:
        if region.name.casefold() in reserved:
            message = f"{region.name!r} has several values; expected one. Give the others names of their own."
            problems.append(Problem("", message))
        elif region.name.casefold() in names:
            problems.append(Problem("", f"a region and a label are both called {region.name!r}; rename one."))
        if ignored & set(region.values):
            problems.append(Problem("", f"the region {region.name!r} holds the ignored value; take it out."))
        names.add(region.name.casefold())
