"""Splits regions, which are labels that unite values such as an organ and its tumor, into parts without overlap.

Owns: `Region`, and the conversion of named sets of values, as nnU-Net writes regions, to parts and unions of parts.
Does not own: reading `dataset.json` (`labels.py`), how training uses regions (`partial_labels.py`).

{"whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing tumour": [3]} has the parts

    1  whole tumour without tumour core        2  tumour core without enhancing tumour        3  enhancing tumour

and the regions whole tumour (1, 2, 3) and tumour core (2, 3). Each voxel belongs to one part; users ask for regions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autoseg.errors import Problem


@dataclass(frozen=True)
class Region:
    """A named union of label values.

    Attributes:
        name: The name as the dataset spells it.
        values: Two or more values, ascending.
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One value of a dataset with regions.

    Attributes:
        value: The value in the label maps.
        name: The name of its own, or one made of the regions that contain it and those that do not.
        part_of: The smallest regions that contain it, which define it if it has no name of its own.
    """

    value: int
    name: str
    part_of: tuple[str, ...] = ()


def split_regions(
    regions: Mapping[str, tuple[int, ...]], *, named: Mapping[int, str], problems: list[Problem]
) -> tuple[list[Part], tuple[Region, ...]]:
    """Find the parts of overlapping sets of values, and name each.

    Args:
        regions: The values of each region, two or more, none of them 0.
        named: The values that are labels of their own.
        problems: Grows, where two regions are the same.

    Returns:
        The parts without a name of their own, sorted by value, and the regions.
    """
    sets = {name: frozenset(values) for name, values in regions.items()}
    first_of: dict[frozenset[int], str] = {}
    for name, values in sets.items():
        first = first_of.setdefault(values, name)
        if first != name:
            problems.append(Problem("", f"the regions {first!r} and {name!r} hold the same values; keep one."))
    kept = {name: sets[name] for name in first_of.values()}
    alone = {name: frozenset({value}) for value, name in named.items()}
    nameless = sorted({value for values in kept.values() for value in values} - set(named))
    parts = [_name_part(value, regions=kept, others={**kept, **alone}) for value in nameless]
    used: dict[str, int] = {}
    for part in parts:
        if part.name in used:
            message = (
                f"the values {used[part.name]} and {part.value} lie in the same regions ({part.name}), so nothing "
                "tells them apart. Give them one value, or one of them a name of its own."
            )
            problems.append(Problem("", message))
        used[part.name] = part.value
    parts = [
        replace(part, name=f"{part.name} ({part.value})") if used[part.name] != part.value else part for part in parts
    ]
    parts = [replace(part, name=f"{part.name} alone") if part.name in kept else part for part in parts]
    return parts, tuple(Region(name, tuple(sorted(values))) for name, values in kept.items())


def _name_part(value: int, *, regions: Mapping[str, frozenset[int]], others: Mapping[str, frozenset[int]]) -> Part:
    around = {name: values for name, values in regions.items() if value in values}
    smallest = [name for name, values in around.items() if not any(other < values for other in around.values())]
    inside = frozenset.intersection(*(around[name] for name in smallest))
    without = [name for name, values in others.items() if value not in values and values & inside]
    largest = [name for name in without if not any(others[name] < others[other] for other in without)]
    name = " and ".join(smallest)
    if inside != {value} and largest:
        name = f"{name} without {' and '.join(largest)}"
    return Part(value, name, tuple(smallest))
