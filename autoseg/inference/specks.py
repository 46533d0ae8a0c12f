"""Pieces of an organ that lie apart from the rest of it and are small beside it.

Owns: their removal from a finished label map. Which organs are meant to be in one piece is the plan's affair.
"""

from collections.abc import Sequence

import numpy as np
from acvl_utils.morphology.morphology_helper import generic_filter_components_cc3d
from scipy import ndimage

from autoseg.plans import Plans

FULL_CONNECTIVITY = 26  # voxels that touch by a corner are connected, as in the fingerprint


def clean_labels(labels_zyx: np.ndarray, *, plans: Plans) -> None:
    """Remove specks, in place, of the organs that the plan says are in one piece."""
    whole = [organ.value for organ in plans.data.organs if organ.name in plans.inference.one_piece_organs]
    remove_specks(labels_zyx, values=whole, least_share=plans.inference.speck_share)


def remove_specks(labels_zyx: np.ndarray, *, values: Sequence[int], least_share: float) -> int:
    """Turn an organ's small detached pieces into background, in place.

    Args:
        labels_zyx: Label map; changed.
        values: Of the organs that are looked at.
        least_share: A piece with fewer voxels than this share of the organ's largest piece goes.

    Returns:
        The number of voxels that became background.
    """
    boxes = ndimage.find_objects(labels_zyx, max_label=max(values, default=0))
    removed = 0
    for value in values:
        box = boxes[value - 1]
        if box is None:
            continue
        part = labels_zyx[box]
        mask = part == value
        kept = generic_filter_components_cc3d(
            mask, lambda numbers, sizes: _large_ones(numbers, sizes, least_share), FULL_CONNECTIVITY
        )
        specks = mask & ~kept
        part[specks] = 0
        removed += int(specks.sum())
    return removed


def _large_ones(numbers: Sequence[int], sizes: Sequence[int], least_share: float) -> list[int]:
    least = least_share * max(sizes)
    return [number for number, size in zip(numbers, sizes, strict=True) if size >= least]
