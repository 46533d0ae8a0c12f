"""Reads and writes `label_mapping.json`, which says what the labels of several datasets mean and may be edited.

Owns: the form of the file, how it applies to the datasets that are planned now, and when it is written.
Does not own: how a mapping is found (`label_mapping.py`), what the plan stores of it (`config/data.py`).

    {"datasets": {"btcv": {"spleen": "spleen", "kidney": "kidneys", "artefact": null}, ..},
     "regions": {"kidneys": ["left kidney", "right kidney"]}}

A label means an organ, a region, or null for the background. The file wins: only labels that it does not contain are
added. Entries for datasets that are not planned now stay in it and are ignored.
"""

import difflib
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.datasets.labels import MAX_NAME_LENGTH, LabelSet
from autoseg.errors import UsageError, printable
from autoseg.planning.multi_dataset.label_mapping import LabelMapping, MappedRegion, unify_labels
from autoseg.system.atomic_files import read_json, write_json

log = logging.getLogger("autoseg")

FILE_NAME = "label_mapping.json"
ABOUT = (
    "The organ or region that each label of each dataset means; null is the background. Labels with the same meaning "
    "are one organ. A region is a union of organs, for labels that are less detailed than those of other datasets. "
    "Edit this file, then run autoseg_plan again; delete it to have all meanings found again."
)
Labels = Mapping[str, Mapping[str, str | None]]
Regions = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Meanings:
    """The content of the file.

    Attributes:
        labels: The meaning of each label of each dataset; None is the background.
        regions: The organs of each region.
    """

    labels: Labels
    regions: Regions


def find_mapping(folder: Path, datasets: Mapping[str, LabelSet]) -> LabelMapping:
    """Return the mapping of a run from its file, with labels added that the file does not contain.

    Args:
        folder: The run folder; the file is written there if labels are added.
        datasets: The labels by the name of the dataset.

    Raises:
        UsageError: The file is damaged, or does not fit the datasets.
        OSError: The file cannot be written.
    """
    found, written = unify_labels(datasets), read_mapping(folder)
    if written is None:
        _write(folder, Meanings(found.labels, {region.name: region.organs for region in found.regions}))
        return found
    source = _source(folder)
    _refuse_unknown_labels(written.labels, datasets, source=source)
    new = _find_new(found, written, datasets=datasets)
    labels = {name: {**own, **written.labels.get(name, {})} for name, own in found.labels.items()}
    absent = {name: own for name, own in written.labels.items() if name not in datasets}
    regions = {**new.regions, **written.regions}
    mapping = _make_mapping(Meanings(labels, regions), found=found, absent=absent, source=source)
    if absent:
        log.info("%s keeps what it says of datasets that are not planned now: %s", FILE_NAME, _list(absent))
    if any(new.labels.values()):
        _tell_additions(found, new=new, written=written)
        _write(folder, Meanings({**labels, **absent}, regions))
    return mapping


def _find_new(found: LabelMapping, written: Meanings, *, datasets: Mapping[str, LabelSet]) -> Meanings:
    """Return the labels that the file does not contain, and the regions that come with them."""
    labels = {
        name: {label: means for label, means in own.items() if label not in written.labels.get(name, {})}
        for name, own in found.labels.items()
    }
    wanted = _meanings_of(labels)
    wanted |= {region.name for name, own in labels.items() if own for region in datasets[name].regions}
    return Meanings(labels, {region.name: region.organs for region in found.regions if region.name in wanted})


def _tell_additions(found: LabelMapping, *, new: Meanings, written: Meanings) -> None:
    """Log which labels are added, and which meanings of others autoseg would change now."""
    log.info("%s: labels are added of %s", FILE_NAME, _list(name for name, own in new.labels.items() if own))
    others = [
        f"{name}: {label} -> {means or 'background'}"
        for name, own in found.labels.items()
        for label, means in own.items()
        if label in written.labels.get(name, {}) and written.labels[name][label] != means
    ]
    if others:
        log.warning(
            "%s: the meanings in it stay. Beside the new labels autoseg would choose others: %s. Edit the file, or "
            "delete it to take these.",
            FILE_NAME,
            _list(others),
        )


def _make_mapping(meanings: Meanings, *, found: LabelMapping, absent: Labels, source: str) -> LabelMapping:
    """Leave out organs of other datasets; a region with one organ left becomes that organ."""
    labels, regions = meanings.labels, meanings.regions
    there = (_meanings_of(labels) - regions.keys()) | _within_regions(found, meanings)
    elsewhere = _meanings_of(absent) | {label for own in absent.values() for label in own}
    elsewhere |= set(found.organs)  # an edit may leave some that no label means
    _refuse_unknown_organs(regions, there=there, elsewhere=elsewhere, source=source)
    left = {name: tuple(organ for organ in organs if organ in there) for name, organs in regions.items()}
    single = {name: organs[0] for name, organs in left.items() if len(organs) == 1}
    left = {name: organs for name, organs in left.items() if len(organs) > 1}
    meant = {
        dataset: {label: None if means is None else single.get(means, means) for label, means in own.items()}
        for dataset, own in labels.items()
    }
    used = dict.fromkeys(means for own in meant.values() for means in own.values() if means and means not in left)
    used |= dict.fromkeys(organ for organs in left.values() for organ in organs)
    organs = tuple(dict.fromkeys([*(name for name in found.organs if name in used), *used]))
    if not organs:
        raise UsageError(f"{source}: no label means an organ. Give at least one a name in place of null.")
    _refuse_alike([*organs, *left], source=source)
    return LabelMapping(organs, tuple(MappedRegion(name, members) for name, members in left.items()), meant)


def _within_regions(found: LabelMapping, meanings: Meanings) -> set[str]:
    """Return the organs that exist only within regions."""
    now: dict[str, set[str]] = {}
    for dataset, own in found.labels.items():
        for label, means in own.items():
            now.setdefault(means or "", set()).add(meanings.labels[dataset][label] or "")
    regions = meanings.regions
    return {
        organ
        for organ in found.organs
        if organ not in now or any(organ in regions[means] for means in now[organ] if means in regions)
    }


def read_mapping(folder: Path) -> Meanings | None:
    """Read the file of a run; None if there is none.

    Raises:
        UsageError: The file is damaged.
    """
    path = folder / FILE_NAME
    if not (path.exists() or path.is_symlink()):
        return None
    return _read_meanings(read_json(path), source=_source(folder))


def _write(folder: Path, meanings: Meanings) -> None:
    datasets = {dataset: dict(labels) for dataset, labels in meanings.labels.items()}
    regions = {name: list(organs) for name, organs in meanings.regions.items()}
    write_json(folder / FILE_NAME, {"about": ABOUT, "datasets": datasets, "regions": regions})


def _list(names: Iterable[str]) -> str:
    return printable(", ".join(names)[:400])


def describe_mapping(mapping: LabelMapping) -> list[str]:
    """Describe in lines of text which labels are one organ, and the regions."""
    meant: dict[str, list[str]] = {}
    for dataset, labels in mapping.labels.items():
        for label, means in labels.items():
            meant.setdefault(means or "", []).append(f"{dataset}: {label}")
    lines = [f"{organ}  <- {'; '.join(meant.get(organ, ['only within regions']))}" for organ in mapping.organs]
    for region in mapping.regions:
        labels_of_it = f"  <- {'; '.join(meant[region.name])}" if region.name in meant else ""
        lines.append(f"{region.name} = {' + '.join(region.organs)}{labels_of_it}")
    return lines + ([f"(background)  <- {'; '.join(meant[''])}"] if "" in meant else [])


def _source(folder: Path) -> str:
    return printable(str(folder / FILE_NAME))


def _read_meanings(content: Any, *, source: str) -> Meanings:
    """Check the form of the file's content."""
    datasets = content.get("datasets") if isinstance(content, dict) else None
    regions = content.get("regions", {}) if isinstance(content, dict) else None
    if (
        not isinstance(datasets, dict)
        or not all(isinstance(labels, dict) for labels in datasets.values())
        or not isinstance(regions, dict)
    ):
        raise UsageError(
            f'{source} is not a mapping of labels; expected {{"datasets": {{"name": {{"label": "organ"}}}}, "regions": '
            "{}}. Correct it, or delete it to have it written again."
        )
    for labels in datasets.values():
        for name, means in labels.items():
            if means is not None and not _is_name(means):
                raise UsageError(
                    f"{source}: the label {name!r:.120} means {means!r:.80}; expected null, or the name of an organ "
                    f"or region of up to {MAX_NAME_LENGTH} characters."
                )
    for name, organs in regions.items():
        if not _is_name(name):
            raise UsageError(
                f"{source}: a region is called {name!r:.80}; expected a name of up to {MAX_NAME_LENGTH} characters."
            )
        is_list = isinstance(organs, list) and all(_is_name(organ) for organ in organs)
        if not is_list or len(set(organs)) < 2:
            raise UsageError(
                f"{source}: the region {name!r:.120} unites {organs!r:.80}; expected a list of two organs or more."
            )
    return Meanings(datasets, {name: tuple(dict.fromkeys(organs)) for name, organs in regions.items()})


def _refuse_unknown_labels(edited: Labels, datasets: Mapping[str, LabelSet], *, source: str) -> None:
    for dataset, label_set in datasets.items():
        known = {organ.name: None for organ in label_set.organs}
        for name in edited.get(dataset, {}):
            if name not in known:
                near = _nearest(name, known)
                hint = f"Did you mean {near!r}?" if near else f"Remove it; there are {', '.join(known)[:300]}."
                raise UsageError(f"{source}: dataset {dataset!r} has no label {name!r:.120}. {hint}")


def _refuse_unknown_organs(
    regions: Regions, *, there: Collection[str], elsewhere: Collection[str], source: str
) -> None:
    for name, organs in regions.items():
        for organ in organs:
            if organ in regions:
                raise UsageError(
                    f"{source}: the region {name!r} unites {organ!r}, which is a region itself. Name its organs: "
                    f"{', '.join(regions[organ])[:300]}."
                )
            if organ not in there and organ not in elsewhere:
                near = _nearest(organ, there)
                hint = f" Did you mean {near!r}?" if near else " Name organs that labels mean."
                raise UsageError(f"{source}: the region {name!r} unites {organ!r}, which no label means.{hint}")


def _refuse_alike(names: Iterable[str], *, source: str) -> None:
    first_of: dict[str, str] = {}
    for name in names:
        first = first_of.setdefault(name.casefold(), name)
        if first != name:
            raise UsageError(
                f"{source}: {first!r} and {name!r} differ in upper and lower case alone. Write both in one way."
            )


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name[:MAX_NAME_LENGTH], list(known), n=1)), None)


def _meanings_of(labels: Labels) -> set[str]:
    """Return all organs and regions that labels mean."""
    return {means for own in labels.values() for means in own.values() if means is not None}


def _is_name(value: Any) -> bool:
    """Return whether a value can be the name of an organ: text without surrounding blanks and lone surrogates."""
    is_text = isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH and value == value.strip()
    return is_text and not any("\ud800" <= letter <= "\udfff" for letter in value)
