"""Many masks become one label map.

Owns: `merge_masks` and the rule for voxels that several masks hold: they go to the smallest organ of them.
Does not own: where masks come from.

The rule keeps what would be lost otherwise: a tumour stays inside of its liver, a vessel inside of a lung. Organs of
one size share by the lower value. Each pair of organs with common voxels is reported.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

MOST_PAIRS_SHOWN = 6


@dataclass(frozen=True)
class MergedMasks:
    """A label map made of masks.

    Attributes:
        labels_zyx: uint8 or uint16.
        overlaps: Number of common voxels by pair of values, the lower one first.
    """

    labels_zyx: np.ndarray
    overlaps: Mapping[tuple[int, int], int]


def merge_masks(masks: Iterable[tuple[int, np.ndarray]], *, shape_zyx: tuple[int, ...], highest: int) -> MergedMasks:
    """Put masks into one label map; only one of them is held at a time.

    Args:
        masks: Value and mask (bool, zyx), each value once.
        shape_zyx: Of all masks.
        highest: No value is higher; it decides the type of the result.
    """
    labels = np.zeros(shape_zyx, np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16)
    sizes = np.zeros(highest + 1, np.int64)
    overlaps: Counter[tuple[int, int]] = Counter()
    for value, mask in masks:
        sizes[value] = np.count_nonzero(mask)
        held = labels[mask]  # by others, or 0
        is_taken = held != 0
        others = held[is_taken]
        for other in np.flatnonzero(np.bincount(others, minlength=1)):
            overlaps[min(value, int(other)), max(value, int(other))] += int(np.count_nonzero(others == other))
        wins = ~is_taken
        wins[is_taken] = (sizes[others] > sizes[value]) | ((sizes[others] == sizes[value]) & (others > value))
        held[wins] = value
        labels[mask] = held
    return MergedMasks(labels, dict(overlaps))


def describe_overlaps(overlaps: Mapping[tuple[int, int], int], names: Mapping[int, str]) -> tuple[str, ...]:
    """Say in a sentence which organs have common voxels, the most first; nothing where none have."""
    if not overlaps:
        return ()
    ordered = sorted(overlaps.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{names[a]} and {names[b]} ({count})" for (a, b), count in ordered[:MOST_PAIRS_SHOWN]]
    more = f" and {len(ordered) - len(shown)} more pairs" if len(ordered) > len(shown) else ""
    return (f"voxels that two organs hold go to the smaller one: {', '.join(shown)}{more}.",)
