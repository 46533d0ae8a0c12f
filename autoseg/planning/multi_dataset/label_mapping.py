"""Maps the labels of several datasets onto one list of organs and regions.

Owns: `LabelMapping`, and how it is found by name and synonym.
Does not own: its file, which a user may edit (`mapping_file.py`), the joint fingerprint (`merge_datasets.py`), when two
names mean one organ (`organs/relations.py`).

Two labels are one organ if the built-in knowledge has them as names of one structure, or if their names are equal
(case, word order, plural and spelling do not matter). Names whose meaning differs between datasets, such as "cancer",
stay separate. A label becomes a region, "one of these organs", if other datasets are more specific:

    "kidney" in A, "left kidney" and "right kidney" in B     kidney in A means the region {left kidney, right kidney}
    "liver" in A, "liver" and "liver tumour" in B            liver in A means the region {liver, liver tumour}
    "lung" in A, "lung tumour" alone in B                    lung in A means the region {lung, lung tumour}

In the last line no label means the organ lung alone; it is learned as the rest of the region.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoseg.datasets.labels import MAX_NAME_LENGTH, LabelSet, Organ
from autoseg.organs.relations import FinerNames, is_other_side, organ_key, organ_words

Label = tuple[str, str]  # a dataset, and the name of a label in it


@dataclass(frozen=True)
class MappedRegion:
    """A region: its name, and two organs or more."""

    name: str
    organs: tuple[str, ...]


@dataclass(frozen=True)
class LabelMapping:
    """The meaning of the labels of several datasets.

    Attributes:
        organs: The names of the organs, in the order of the plan.
        regions: Unions of organs.
        labels: The meaning of each label of each dataset: an organ, a region, or None for the background.
    """

    organs: tuple[str, ...]
    regions: tuple[MappedRegion, ...]
    labels: Mapping[str, Mapping[str, str | None]]


def unify_labels(datasets: Mapping[str, LabelSet]) -> LabelMapping:
    """Find the labels of several datasets that mean the same.

    Args:
        datasets: The labels by the name of the dataset, in the order for the organs.
    """
    organs, organ_of = _unify_names(datasets)
    members = _find_members(datasets, organs=organs, organ_of=organ_of)
    used = {organ for found in members.values() for organ in found}
    kept = tuple(organ for organ in organs if organ in used)
    regions = _Regions(kept)
    labels: dict[str, dict[str, str | None]] = {dataset: {} for dataset in datasets}
    for (dataset, label), found in members.items():
        labels[dataset][label] = regions.name(found, organ=organ_of[dataset, label]) if len(found) > 1 else found[0]
    for dataset, label_set in datasets.items():
        name_of = {organ.value: organ.name for organ in label_set.organs}
        for region in label_set.regions:
            union = {organ for value in region.values for organ in members[dataset, name_of[value]]}
            regions.add(region.name, tuple(organ for organ in kept if organ in union), dataset=dataset)
    return LabelMapping(kept, regions.found(), labels)


def _unify_names(datasets: Mapping[str, LabelSet]) -> tuple[tuple[str, ...], dict[Label, str]]:
    """Assign an organ to every label; the first dataset with an organ names it."""
    of_key: dict[tuple[str, ...], str] = {}
    names = _Names()
    organ_of: dict[Label, str] = {}
    for dataset, label_set in datasets.items():
        used: set[tuple[str, ...]] = set()
        for label in label_set.organs:
            own = ("own", dataset, label.name)
            key = _key(label) or own
            if key in used:  # two labels of one dataset are never one organ
                key = own
            used.add(key)
            if key not in of_key:
                of_key[key] = names.take(label.name, otherwise=f"{label.name[:120]} ({dataset})")
            organ_of[dataset, label.name] = of_key[key]
    return tuple(of_key.values()), organ_of


def _key(label: Organ) -> tuple[str, ...] | None:
    """Return a key that is equal for labels of one organ; for a part without a name, the words of its regions.

    None means that it equals no label of another dataset.
    """
    if not label.part_of:
        return organ_key(label.name)
    if any(organ_key(region) is None for region in label.part_of):
        return None
    return ("part", *sorted(organ_words(label.name)))


def _find_members(
    datasets: Mapping[str, LabelSet], *, organs: Iterable[str], organ_of: Mapping[Label, str]
) -> dict[Label, tuple[str, ...]]:
    """Find the organs that each label may mean, which are several if other datasets are more specific.

    Besides the organ itself, a label may mean a lesion in it that its dataset does not label separately.
    """
    finer = FinerNames(organs)
    declared = {
        dataset: _declared_regions(label_set, dataset, organ_of=organ_of) for dataset, label_set in datasets.items()
    }
    own_of = {dataset: {organ_of[dataset, one.name] for one in labels.organs} for dataset, labels in datasets.items()}
    cores = {}
    for (dataset, label), organ in organ_of.items():
        own = own_of[dataset]
        foreign = (region for other, regions in declared.items() if other != dataset for region in regions)
        halves = finer.halves_of(organ, without=own)
        cores[dataset, label] = _same_region(organ, regions=foreign, own=own) or halves or (organ,)
    cores, made_of = _expand(cores, organ_of=organ_of)
    taken: dict[str, set[str]] = {}
    for (dataset, _), core in cores.items():
        taken.setdefault(dataset, set()).update(core)
    members = {}
    for (dataset, label), core in cores.items():
        organ = organ_of[dataset, label]
        lesions = _reach(finer.lesions_of(organ, without=own_of[dataset]), made_of=made_of)
        beside = [one for one in lesions if one not in taken[dataset] and not is_other_side(one, organ)]
        members[dataset, label] = (*core, *beside)
    return members


def _declared_regions(
    labels: LabelSet, dataset: str, *, organ_of: Mapping[Label, str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the regions that a dataset itself names, with their organs."""
    of_value = {label.value: organ_of[dataset, label.name] for label in labels.organs}
    return [(region.name, tuple(of_value[value] for value in region.values)) for region in labels.regions]


def _same_region(organ: str, *, regions: Iterable[tuple[str, tuple[str, ...]]], own: set[str]) -> tuple[str, ...]:
    """Return the parts of another dataset's region with the name of this organ; () if there is none."""
    key = organ_key(organ)
    found = (parts for name, parts in regions if key is not None and organ_key(name) == key and not own & set(parts))
    return next(found, ())


def _expand(
    cores: Mapping[Label, tuple[str, ...]], *, organ_of: Mapping[Label, str]
) -> tuple[dict[Label, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Replace organs that are only unions, such as "kidney" next to left and right kidneys, by their parts.

    Returns:
        The organs of each label, and the parts of the organs that were replaced.
    """
    cores = dict(cores)
    while True:
        whole = {organ_of[label] for label, core in cores.items() if organ_of[label] in core}
        made_of = {organ_of[label]: core for label, core in cores.items() if organ_of[label] not in whole}
        expanded = {label: _reach(core, made_of=made_of) for label, core in cores.items()}
        lost = next((label for label, core in expanded.items() if not core), None)
        if lost is None:
            return expanded, made_of
        cores[lost] = (organ_of[lost],)  # regions of several datasets that are made of each other


def _reach(organs: Iterable[str], *, made_of: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the organs without parts that some organs are made of, each once."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    waiting = list(organs)[::-1]
    while waiting:
        organ = waiting.pop()
        if organ in seen:
            continue
        seen.add(organ)
        if organ in made_of:
            waiting += made_of[organ][::-1]
        else:
            found[organ] = None
    return tuple(found)


class _Names:
    """The names in use, ignoring case."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._taken = {name.casefold() for name in names}

    def take(self, name: str, *, otherwise: str) -> str:
        """Return the name, or if it is in use the other one, numbered if necessary."""
        name, number = name[:MAX_NAME_LENGTH].rstrip(), 1
        while name.casefold() in self._taken:
            ending = "" if number == 1 else f" {number}"
            name = otherwise[: MAX_NAME_LENGTH - len(ending)].rstrip() + ending
            number += 1
        self._taken.add(name.casefold())
        return name


class _Regions:
    """The regions found so far, with unique sets of organs and unique names."""

    def __init__(self, organs: tuple[str, ...]) -> None:
        self._places = {organ: place for place, organ in enumerate(organs)}
        self._names = _Names(organs)
        self._of_members: dict[tuple[str, ...], str] = {}

    def name(self, organs: Iterable[str], *, organ: str) -> str:
        """Return the name of the region that a label of an organ means."""
        members = self._sort(organs)
        if members not in self._of_members:
            others = [member for member in members if member != organ]
            name = f"{organ} with {' and '.join(others)}" if organ in members else organ
            self._of_members[members] = self._names.take(name, otherwise=f"{organ} of {' and '.join(members)}")
        return self._of_members[members]

    def add(self, name: str, organs: Iterable[str], *, dataset: str) -> None:
        """Add a region that a dataset names, unless it is a single organ."""
        members = self._sort(organs)
        if len(members) > 1 and members not in self._of_members:
            self._of_members[members] = self._names.take(name, otherwise=f"{name[:120]} ({dataset})")

    def found(self) -> tuple[MappedRegion, ...]:
        """Return all regions."""
        return tuple(MappedRegion(name, members) for members, name in self._of_members.items())

    def _sort(self, organs: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(organs, key=self._places.__getitem__))
