"""Removes small connected components of organs from label maps.

Owns: the labeling of components, and their removal from a finished label map.
Does not own: which components are small, which the plan decides (`config/inference.py`).

Components are labeled in slabs of planes and joined where slabs meet, so that no further array of the scan's size is
allocated.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cc3d
import numpy as np
from scipy import ndimage, sparse

from autoseg.config.plans import Plans
from autoseg.io.geometry import ImageGeometry

FULL_CONNECTIVITY: Final = 26  # voxels that touch by a corner are connected, as in the fingerprint
SLAB_VOXELS = 1 << 23  # numbered at once: 32 MiB
PARTS_PIECES = 1 << 20  # looked at together


@dataclass(frozen=True)
class Least:
    """The smallest size of a component that stays.

    Attributes:
        share: The fraction of the voxels of the organ's largest component.
        voxels: The number of voxels.
    """

    share: float = 0.0
    voxels: float = 0.0


def clean_labels(labels_zyx: np.ndarray, *, plans: Plans, geometry: ImageGeometry) -> None:
    """Remove the components that the plan filters, in place."""
    values = {organ.name: organ.value for organ in plans.data.organs}
    voxel_ml = geometry.voxel_ml
    rules = {
        values[c.organ]: Least(c.min_fraction, c.min_volume_ml / voxel_ml) for c in plans.inference.component_filter
    }
    remove_specks(labels_zyx, rules)


def number_pieces(organs: np.ndarray) -> tuple[np.ndarray, int]:
    """Label the components of all organs of a label map: an array from 1, 0 for background; and their count."""
    numbers, count = cc3d.connected_components(organs, connectivity=FULL_CONNECTIVITY, return_N=True)
    return numbers, count


def remove_specks(labels_zyx: np.ndarray, rules: Mapping[int, Least]) -> int:
    """Set small components of organs to background, in place.

    Args:
        labels_zyx: The label map, which is changed.
        rules: The smallest size of a component, by the organ's value; other organs are not filtered.

    Returns:
        The number of voxels that became background.
    """
    rules = {
        value: rule for value, rule in rules.items() if value <= np.iinfo(labels_zyx.dtype).max
    }  # others are absent
    values = sorted(rules)
    boxes = [box for box in ndimage.find_objects(labels_zyx, max_label=max(values, default=0)) or [] if box is not None]
    if not boxes:
        return 0
    spans = [(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3)]
    part = labels_zyx[tuple(slice(*span) for span in spans)]
    is_small = _find_small(part, rules)
    removed = 0
    if is_small.any():
        for slab in _slabs(part, values=values):
            gone = is_small[slab.first :][slab.numbers] & (slab.numbers > 0)
            slab.labels[gone] = 0
            removed += int(np.count_nonzero(gone))
    return removed


@dataclass(frozen=True)
class _Slab:
    """Some planes of a label map with their components.

    Attributes:
        labels: A view of the label map.
        organs: The same values, 0 for organs that are not filtered.
        numbers: The component at each voxel, from 1; 0 where there is none.
        count: The number of components.
        first: The number of components in the slabs before; component n of this one has the number `first + n`.
    """

    labels: np.ndarray
    organs: np.ndarray
    numbers: np.ndarray
    count: int
    first: int


def _slabs(labels: np.ndarray, *, values: Sequence[int]) -> Iterator[_Slab]:
    """Yield the slabs of a label map; components have the same numbers in every pass."""
    looked_at = np.zeros(np.iinfo(labels.dtype).max + 1, labels.dtype)
    looked_at[list(values)] = values
    step = max(1, SLAB_VOXELS // labels[0].size)
    first = 0
    for start in range(0, len(labels), step):
        slab = labels[start : start + step]
        organs = np.ascontiguousarray(looked_at[slab])
        numbers, count = number_pieces(organs)
        yield _Slab(slab, organs, numbers, count, first)
        first += count


def _find_small(labels: np.ndarray, rules: Mapping[int, Least]) -> np.ndarray:
    """Return (1 + pieces), True for each piece that belongs to a small component; the first is False.

    Noise has millions of pieces, so only a few bytes are kept for each.
    """
    sizes, organs, meetings = [np.zeros(1, np.uint32)], [np.zeros(1, labels.dtype)], [np.zeros((2, 0), np.int32)]
    before: _Slab | None = None
    for slab in _slabs(labels, values=sorted(rules)):
        is_organ = slab.numbers > 0  # few of the voxels; numpy counts int64 alone, which would be made of all of them
        numbers = slab.numbers[is_organ]
        sizes.append(np.bincount(numbers, minlength=slab.count + 1)[1:].astype(np.uint32))
        organ = np.zeros(slab.count + 1, labels.dtype)
        organ[numbers] = slab.organs[is_organ]
        organs.append(organ[1:])
        if before is not None:
            meetings.append(_meetings(before, slab))
        before = slab
    size, organ = np.concatenate(sizes), np.concatenate(organs)
    del sizes, organs
    _add_up_wholes(size, np.concatenate(meetings, axis=1))
    largest = np.zeros(max(rules, default=0) + 1)
    for part in _parts(len(size)):
        np.maximum.at(largest, organ[part], size[part])
    least = np.zeros(len(largest))
    for value, rule in rules.items():
        least[value] = max(rule.share * largest[value], rule.voxels)
    is_small = np.zeros(len(size), bool)
    for part in _parts(len(size)):
        is_small[part] = size[part] < least[organ[part]]
    is_small[0] = False
    return is_small


def _add_up_wholes(size: np.ndarray, meetings: np.ndarray) -> None:
    """Set the size of each piece to that of all pieces connected to it, in place; `meetings` are (2, n)."""
    touching, places = np.unique(meetings, return_inverse=True)
    one, other = places.reshape(meetings.shape)
    graph = sparse.coo_array((np.ones(one.size, bool), (one, other)), shape=(touching.size, touching.size))
    _, whole = sparse.csgraph.connected_components(graph, directed=False)
    size[touching] = np.bincount(whole, weights=size[touching])[whole]


def _parts(count: int) -> Iterator[slice]:
    """Split many pieces into parts, whose intermediate numbers have eight bytes."""
    for start in range(0, count, PARTS_PIECES):
        yield slice(start, start + PARTS_PIECES)


def _meetings(below: _Slab, above: _Slab) -> np.ndarray:
    """Find which pieces touch across the border of two slabs: (2, n) numbers among all pieces."""
    rows, columns = below.organs.shape[1:]
    found = [np.zeros(0, np.int64)]
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            here = (slice(max(0, down), rows + min(0, down)), slice(max(0, right), columns + min(0, right)))
            there = (slice(max(0, -down), rows + min(0, -down)), slice(max(0, -right), columns + min(0, -right)))
            organ = below.organs[-1][here]
            touch = (organ == above.organs[0][there]) & (organ > 0)
            pairs = below.numbers[-1][here][touch].astype(np.int64) * (above.count + 1) + above.numbers[0][there][touch]
            found.append(np.unique(pairs))  # a pair as one number
    pairs = np.unique(np.concatenate(found))
    one, other = np.divmod(pairs, above.count + 1)
    return np.stack([one + below.first, other + above.first]).astype(np.int32)
