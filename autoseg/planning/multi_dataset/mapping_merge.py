"""A user's edits of `label_mapping.json`, and the datasets as they are now, brought together.

Owns: `Meanings`, `MappingFile`, `merge_edits`.
Does not own: the form of the file (`mapping_file.py`), how a mapping is found (`label_mapping.py`).

An entry that differs from what autoseg had written is an edit, and stays. All else is what is found now, so that a
dataset more or less changes what nobody edited: "liver" becomes "liver with liver tumour" when a dataset comes that
labels the tumour, and is "liver" again when it goes.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from autoseg.datasets.labels import MAX_NAME_LENGTH, LabelSet
from autoseg.errors import UsageError
from autoseg.planning.multi_dataset.label_mapping import LabelMapping, MappedRegion

Labels = Mapping[str, Mapping[str, str | None]]
Regions = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Meanings:
    """What labels mean, as a file says it.

    Attributes:
        labels: For each dataset what each label means; None is the background.
        regions: Name to the organs that it unites.
    """

    labels: Labels
    regions: Regions


@dataclass(frozen=True)
class MappingFile:
    """What `label_mapping.json` holds.

    Attributes:
        written: As it stands there, perhaps edited.
        found: What autoseg had found.
    """

    written: Meanings
    found: Meanings


def merge_edits(
    found: LabelMapping, file: MappingFile, *, datasets: Mapping[str, LabelSet], source: str
) -> tuple[LabelMapping, MappingFile]:
    """Change what is found now as a user changed the file.

    Args:
        found: In these datasets.
        file: As it is; what it says of other datasets stays in it.
        datasets: Labels by the name of the dataset.
        source: Names the file in errors.

    Returns:
        The mapping, and what the file is to hold.

    Raises:
        UsageError: An edit names what is not there, or names do not go together.
    """
    edits = _find_edits(file)
    _refuse_unknown_labels(edits.labels, datasets, source=source)
    labels = {
        dataset: {label: edits.labels.get(dataset, {}).get(label, means) for label, means in own.items()}
        for dataset, own in found.labels.items()
    }
    automatic, order = _follow_regions(found, file, edits=edits, labels=labels, source=source)
    single = {name: organs[0] for name, organs in automatic.items() if len(organs) == 1}
    labels = _replace(labels, single)
    regions = {**{name: organs for name, organs in automatic.items() if name not in single}, **edits.regions}
    absent = {dataset: own for dataset, own in file.written.labels.items() if dataset not in datasets}
    kept = {name: file.written.regions[name] for name in sorted(_means_of(absent)) if name in file.written.regions}
    within = {organ for organs in automatic.values() for organ in organs}
    there = (_means_of(labels) - regions.keys()) | within | _within_regions(found, labels, regions)
    elsewhere = _means_of(absent) | {organ for organs in kept.values() for organ in organs}
    _refuse_unknown_organs(regions, there=there, elsewhere=elsewhere, source=source)
    mapping = _reduce(labels, regions, there=there, order=order, source=source)
    written = Meanings({**labels, **absent}, {**kept, **regions})
    return mapping, MappingFile(written, _base(written, found, edits=edits, file=file))


def to_meanings(mapping: LabelMapping) -> Meanings:
    """Return a mapping in the form of the file."""
    return Meanings(mapping.labels, {region.name: region.organs for region in mapping.regions})


def _base(written: Meanings, found: LabelMapping, *, edits: Meanings, file: MappingFile) -> Meanings:
    """Return what the next run compares with: of an edit what was found, of all else what is written."""
    labels = {
        dataset: {
            label: found.labels[dataset][label] if label in edits.labels.get(dataset, {}) else means
            for label, means in own.items()
        }
        if dataset in found.labels
        else file.found.labels.get(dataset, {})
        for dataset, own in written.labels.items()
    }
    regions = {name: organs for name, organs in written.regions.items() if name not in edits.regions}
    return Meanings(labels, {**{region.name: region.organs for region in found.regions}, **regions})


def _find_edits(file: MappingFile) -> Meanings:
    """Return what of a file is not as autoseg had written it."""
    was, regions = file.found, file.written.regions

    def is_edited(dataset: str, label: str, means: str | None) -> bool:
        own = was.labels.get(dataset, {})
        return label not in own or own[label] != means or regions.get(means or "") != was.regions.get(means or "")

    labels = {
        dataset: {label: means for label, means in own.items() if is_edited(dataset, label, means)}
        for dataset, own in file.written.labels.items()
    }
    return Meanings(labels, {name: organs for name, organs in regions.items() if was.regions.get(name) != organs})


def _follow_regions(
    found: LabelMapping, file: MappingFile, *, edits: Meanings, labels: Labels, source: str
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the regions that no user wrote, and the organs that were found; both under the names of a user."""
    used = _means_of(labels)
    needless = (file.found.regions.keys() - file.written.regions.keys()) | _means_of(found.labels)
    automatic = {
        region.name: region.organs
        for region in found.regions
        if region.name not in edits.regions and (region.name in used or region.name not in needless)
    }
    organs = used - automatic.keys() - edits.regions.keys()
    renamed: dict[str, str] = {}
    for organ, now in _meanings_now(found, labels).items():
        new = now & organs
        region = next((name for name, members in automatic.items() if organ in members), None)
        if organ in organs or not new:
            continue
        if len(new) > 1 and region is not None:
            raise UsageError(
                f"{source}: what was {organ!r} is now {' and '.join(map(repr, sorted(new)[:4]))}, and the region "
                f"{region!r} unites {organ!r}. Add the region with the organs that it shall unite."
            )
        renamed[organ] = min(new)
    automatic = {
        name: tuple(dict.fromkeys(renamed.get(one, one) for one in members)) for name, members in automatic.items()
    }
    return automatic, [renamed.get(organ, organ) for organ in found.organs]


def _meanings_now(found: LabelMapping, labels: Labels) -> dict[str, set[str]]:
    """Return for all that labels were found to mean what these labels mean now."""
    now: dict[str, set[str]] = {}
    for dataset, own in found.labels.items():
        for label, means in own.items():
            now.setdefault(means or "", set()).add(labels[dataset][label] or "")
    return now


def _within_regions(found: LabelMapping, labels: Labels, regions: Regions) -> set[str]:
    """Return organs that are there though no label means them alone: it may mean a region that unites them now."""
    now = _meanings_now(found, labels)
    return {
        organ
        for organ in found.organs
        if organ not in now or any(organ in regions[means] for means in now[organ] if means in regions)
    }


def _reduce(
    labels: Labels, regions: Regions, *, there: Collection[str], order: Iterable[str], source: str
) -> LabelMapping:
    """Leave out organs of other datasets; a region of which one organ is left is that organ, one of none an organ."""
    left = {name: tuple(organ for organ in organs if organ in there) for name, organs in regions.items()}
    single = {name: organs[0] for name, organs in left.items() if len(organs) == 1}
    left = {name: organs for name, organs in left.items() if len(organs) > 1}
    meant = _replace(labels, single)
    used = {**dict.fromkeys(means for own in meant.values() for means in own.values() if means and means not in left)}
    used |= dict.fromkeys(organ for organs in left.values() for organ in organs)
    organs = tuple(dict.fromkeys([*(name for name in order if name in used), *used]))
    if not organs:
        raise UsageError(f"{source}: no label means an organ. Give at least one a name in place of null.")
    _refuse_alike([*organs, *left], source=source)
    return LabelMapping(organs, tuple(MappedRegion(name, members) for name, members in left.items()), meant)


def _replace(labels: Labels, names: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    """Let labels that mean one of the names mean another."""
    return {
        dataset: {label: None if means is None else names.get(means, means) for label, means in own.items()}
        for dataset, own in labels.items()
    }


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


def _means_of(labels: Labels) -> set[str]:
    """Return all that labels mean, organs and regions."""
    return {means for own in labels.values() for means in own.values() if means is not None}
