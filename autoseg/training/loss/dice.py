"""Computes the Dice loss of a batch, from sums over all of its slices.

Owns: `dice_sums`, what a shard of the batch contributes, and `dice_loss`, which follows from the sums of all shards.
Does not own: what the reference says about a pixel (`targets.py`), the weights of the terms (`compound_loss.py`).

Legend: B slices, I items (organs, then regions), R x W pixels.
"""

import torch
from torch import Tensor

SMOOTH = 1.0  # voxels; keeps the Dice of an organ that the whole batch lacks at a defined value


def dice_sums(probs: Tensor, target: Tensor, is_known: Tensor, counts: Tensor) -> Tensor:
    """Sum what Dice needs over all slices.

    Args:
        probs: (B, I, R, W) probabilities.
        target: (B, I, R, W) reference, 0 to 1.
        is_known: Ones where the reference is known, (B, I, R, W) or (B, 1, R, W).
        counts: (B, I) ones where an item was annotated.

    Returns:
        (3, I): the overlaps, the sizes of both masks together, and the number of slices that count.
    """
    probs, target = probs * is_known, target * is_known
    sizes = probs.sum(dim=(0, 2, 3)) + target.sum(dim=(0, 2, 3))
    return torch.stack([(probs * target).sum(dim=(0, 2, 3)), sizes, counts.sum(dim=0)])


def dice_loss(sums: Tensor) -> Tensor:
    """Return 1 - Dice, averaged over the items that were annotated in any slice; from the (3, I) of `dice_sums`."""
    overlap, sizes, counts = sums
    is_counted = (counts > 0).float()
    dice = (2 * overlap + SMOOTH) / (sizes + SMOOTH)
    return ((1 - dice) * is_counted).sum() / is_counted.sum().clamp(min=1)
