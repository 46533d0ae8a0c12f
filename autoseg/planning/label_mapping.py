"""One list of organs for several datasets: which label of which dataset means which organ or region.

Owns: `LabelMapping`, and how it is found by name and synonym.
Does not own: its file, which a user may edit (`mapping_file.py`), the joint fingerprint (`joining.py`), the organs'
descriptions (`descriptions/`).

Two labels are one organ where the built-in knowledge knows them as names of one structure, or where they read alike
(case, order of words, plural and spelling make no difference). Names that each dataset gives another meaning, such as
"cancer", stay apart. A label becomes a region, "one of these, nobody said which", where other datasets look closer:

    "kidney" in A, "left kidney" and "right kidney" in B     kidney in A means the region {left kidney, right kidney}
    "liver" in A, "liver" and "liver tumour" in B            liver in A means the region {liver, liver tumour}
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoseg.dataset_labels import LabelSet, Organ
from autoseg.descriptions.lookup import structure_name
from autoseg.descriptions.names import name_tokens

SIDES = ("left", "right")
# words that make a part of an organ of its name
LESION_WORDS = frozenset({"tumor", "lesion", "cancer", "cyst", "metastasis", "nodule", "mass", "carcinoma"})
# words that by themselves mean another thing in each dataset
VAGUE_WORDS = LESION_WORDS | {
    *("edema", "core", "enhancing", "whole", "necrosis", "necrotic", "label", "organ", "structure", "object", "roi"),
    *("target", "region", "foreground", "infection", "vessel", "artery", "vein", "bone", "muscle", "other", "anterior"),
    *("posterior", "left", "right", "upper", "lower", "body", "head", "tail", "wall", "lumen", "node", "part"),
}


@dataclass(frozen=True)
class MappedRegion:
    """A region: its name, and two organs or more."""

    name: str
    organs: tuple[str, ...]


@dataclass(frozen=True)
class LabelMapping:
    """What the labels of several datasets mean.

    Attributes:
        organs: Names, in the order of the plan.
        regions: Unions of them.
        labels: For each dataset, what each of its labels means: an organ, a region, or None, the background.
    """

    organs: tuple[str, ...]
    regions: tuple[MappedRegion, ...]
    labels: Mapping[str, Mapping[str, str | None]]

    def organs_of(self, name: str) -> tuple[str, ...]:
        """Return the organs that a name stands for: itself, or those of the region."""
        found = [region.organs for region in self.regions if region.name == name]
        return found[0] if found else (name,)


def unify_labels(datasets: Mapping[str, LabelSet]) -> LabelMapping:
    """Find out which labels of several datasets mean the same.

    Args:
        datasets: Labels by the name of the dataset, in the order that the organs shall have.
    """
    organs, of_label = _unify_names(datasets)
    declared = {dataset: _declared_regions(label_set, of_label[dataset]) for dataset, label_set in datasets.items()}
    members = {
        (dataset, label): _finer_organs(
            organ, organs=organs, own=set(names.values()), regions=_foreign(declared, dataset)
        )
        for dataset, names in of_label.items()
        for label, organ in names.items()
    }
    direct = {found[0] for found in members.values() if len(found) == 1}
    kept = tuple(organ for organ in organs if organ in direct)
    members = _expand(members, of_label=of_label, kept=kept)
    regions = _Regions(taken=kept)
    labels: dict[str, dict[str, str | None]] = {dataset: {} for dataset in datasets}
    for (dataset, label), found in members.items():
        labels[dataset][label] = found[0] if len(found) == 1 else regions.name(found, organ=of_label[dataset][label])
    for dataset, of_dataset in declared.items():
        for name, parts in of_dataset.items():
            union = {organ for part in parts for organ in regions.organs_of(part)}
            regions.add(name, tuple(organ for organ in kept if organ in union), dataset=dataset)
    return LabelMapping(kept, regions.found(), labels)


def _expand(
    members: Mapping[tuple[str, str], tuple[str, ...]],
    *,
    of_label: Mapping[str, Mapping[str, str]],
    kept: Sequence[str],
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Replace members that no dataset labels by themselves by what they are made of there."""
    made_of = {of_label[dataset][label]: found for (dataset, label), found in members.items() if len(found) > 1}
    expanded = {}
    for key, found in members.items():
        single = {part for organ in found for part in ((organ,) if organ in kept else made_of.get(organ, ()))}
        expanded[key] = tuple(organ for organ in kept if organ in single)
    return expanded


def _declared_regions(labels: LabelSet, of_label: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the organs of each region that a dataset itself names."""
    of_value = {label.value: of_label[label.name] for label in labels.organs}
    return {region.name: tuple(of_value[value] for value in region.values) for region in labels.regions}


def _foreign(declared: Mapping[str, Mapping[str, tuple[str, ...]]], dataset: str) -> dict[str, tuple[str, ...]]:
    """Return the regions that other datasets name."""
    return {name: parts for other, named in declared.items() if other != dataset for name, parts in named.items()}


def _unify_names(datasets: Mapping[str, LabelSet]) -> tuple[tuple[str, ...], dict[str, dict[str, str]]]:
    """Give every label an organ; the first dataset that has an organ names it."""
    of_key: dict[object, str] = {}
    taken: dict[str, str] = {}  # name in lower case to itself
    found: dict[str, dict[str, str]] = {}
    for dataset, label_set in datasets.items():
        found[dataset] = {}
        used: set[object] = set()
        for label in label_set.organs:
            key = _key(label, dataset)
            if key in used:  # two labels of one dataset are never one organ
                key = (dataset, label.name)
            used.add(key)
            if key not in of_key:
                name = label.name if label.name.casefold() not in taken else f"{label.name[:120]} ({dataset})"
                of_key[key] = name
                taken[name.casefold()] = name
            found[dataset][label.name] = of_key[key]
    return tuple(of_key.values()), found


def _key(label: Organ, dataset: str) -> object:
    """Return what labels of one organ share."""
    known = structure_name(label.name)
    if known is not None:
        return known
    tokens = name_tokens(label.name)
    is_vague = not set(tokens) - VAGUE_WORDS or label.part_of or not label.name.isascii()
    return (dataset, label.name) if is_vague else tokens


def _finer_organs(
    organ: str, *, organs: Sequence[str], own: Collection[str], regions: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Return the organs that a label may be, where other datasets look closer; the organ alone where none does.

    Args:
        organ: What the label means by name.
        organs: All.
        own: Those of its dataset, which it tells from this one.
        regions: That other datasets name, with their parts.
    """
    tokens = _tokens(organ)
    for name, parts in regions.items():
        if _tokens(name) == tokens and not set(parts) & set(own):
            return tuple(other for other in organs if other in parts)
    foreign = [other for other in organs if other not in own]
    halves = [other for other in foreign if _tokens(other) in [tokens | {side} for side in SIDES]]
    whole = [organ] if len(halves) < len(SIDES) else halves
    base = tokens - set(SIDES)
    lesions = [other for other in foreign if base and base < _tokens(other) and _tokens(other) - base <= LESION_WORDS]
    found = {*whole, *lesions}
    return tuple(other for other in organs if other in found)


def _tokens(name: str) -> frozenset[str]:
    return frozenset(name_tokens(structure_name(name) or name))


class _Regions:
    """Regions as they are found, each set of organs once and each name once."""

    def __init__(self, *, taken: Iterable[str]) -> None:
        self._taken = {name.casefold() for name in taken}
        self._names: dict[tuple[str, ...], str] = {}

    def name(self, members: tuple[str, ...], *, organ: str) -> str:
        """Name the region that an organ's label means."""
        if members not in self._names:
            others = [member for member in members if member != organ]
            name = f"{organ} with {' and '.join(others)}" if organ in members else organ
            self._keep(members, name if name.casefold() not in self._taken else f"{name} of {' and '.join(members)}")
        return self._names[members]

    def add(self, name: str, members: tuple[str, ...], *, dataset: str) -> None:
        """Add a region that a dataset names; one of a single organ is that organ."""
        if len(members) > 1 and members not in self._names:
            self._keep(members, name if name.casefold() not in self._taken else f"{name} ({dataset})")

    def organs_of(self, name: str) -> tuple[str, ...]:
        return next((members for members, known in self._names.items() if known == name), (name,))

    def found(self) -> tuple[MappedRegion, ...]:
        return tuple(MappedRegion(name, members) for members, name in self._names.items())

    def _keep(self, members: tuple[str, ...], name: str) -> None:
        self._names[members] = name[:200]
        self._taken.add(name.casefold())
