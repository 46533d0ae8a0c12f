"""Labels that are unions of values: an organ with its tumour, or the nested parts of a tumour.

Owns: `Region`; from named sets of values, as nnU-Net writes regions, to parts that do not overlap and unions of them.
Does not own: reading `dataset.json` (`labels.py`), what training makes of it (`partial_labels.py`).

{"whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing tumour": [3]} has the parts

    1  whole tumour without tumour core        2  tumour core without enhancing tumour        3  enhancing tumour

and the regions whole tumour (1, 2, 3) and tumour core (2, 3). A part is what a voxel is; a region is what is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autoseg.errors import Problem


@dataclass(frozen=True)
class Region:
    """A named union of label values.

    Attributes:
        name: As the dataset writes it.
        values: Two or more, ascending.
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One value of a dataset with regions.

    Attributes:
        value: In the label maps.
        name: Its own, or made of those of the regions that it lies in and out of.
        part_of: The smallest regions that hold it, which tell what it is where its own name does not.
    """

    value: int
    name: str
    part_of: tuple[str, ...] = ()


def split_regions(
    regions: Mapping[str, tuple[int, ...]], *, named: Mapping[int, str], problems: list[Problem]
) -> tuple[list[Part], tuple[Region, ...]]:
    """Find the parts of overlapping sets of values, and give each a name.

    Args:
        regions: Name to two or more values, none of them 0.
        named: Values that are labels of their own.
        problems: Grows, where two regions are the same.

    Returns:
        The parts that `named` does not name, by value, and the regions.
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
