"""The loss: every output of the network against the reference, each pixel as far as the reference tells.

Owns: the terms, as sums over slices and as what follows from the sums; their total by the plan's weights.
Does not own: what the reference says of a pixel (`targets.py`).

Sources: CRISP-SAM2 (focal to Dice 20:1, IoU against the measured IoU, original and refined masks); SEG-SAM
(semantic map, classification, cross-mask spatial alignment).

Every term follows from sums over slices: of Dice the overlaps and sizes, of an average its numerator and denominator.
So a batch that is shared out to several processes has the loss of the whole once the sums are added up (`in_total`).

Legend: B slices, K organs asked for, I items (organs and regions), R x W the window, h4 x w4 the decoders' grid. Labels
are positions among the sets of `targets.LabelSets`, without them 0 for background and 1..K for the organs in the
order asked, and IGNORE.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.config.plans import LossPlan
from autoseg.network.model import NetworkOutput
from autoseg.training.loss.targets import IGNORE, LabelSets, Target, make_target

__all__ = ["IGNORE", "LabelSets", "compute_losses"]

FOCAL_TO_DICE = 20.0
FOCAL_GAMMA = 2.0
FOCAL_ALPHA = 0.25
SMOOTH = 1.0  # voxels; keeps Dice of an organ that is absent from the whole batch at a defined value

Sums = dict[str, Tensor]


def compute_losses(
    output: NetworkOutput, labels: Tensor, *, weights: LossPlan, sets: LabelSets | None = None
) -> dict[str, Tensor]:
    """Compute the weighted terms of a whole batch.

    Args:
        output: Of the network.
        labels: (B, R, W) integers, see the legend.
        weights: From the plan.
        sets: What the labels stand for, where not every one is a single organ that was annotated everywhere.

    Returns:
        Each weighted term by name, and their sum as "total".
    """
    target = make_target(labels, num_organs=output.mask_logits.shape[1], sets=sets)
    return combine_sums(measure_sums(output, target), weights=weights)


def measure_sums(output: NetworkOutput, target: Target) -> Sums:
    """Measure what all terms follow from; two halves of a batch give sums that add up to those of the whole."""
    counts = target.counts(len(output.iou_predictions))  # (B, I)
    num_organs = output.mask_logits.shape[1]
    sums = _map_sums("", output.logits, target, counts)
    if output.coarse_logits is not None:
        small = target.shrink(output.coarse_logits.shape[-2:])
        sums |= _map_sums("coarse_", output.coarse_logits, small, counts)
    small = target.shrink(output.mask_logits.shape[-2:])
    masks = output.mask_logits.sigmoid()
    organs, known = small.of_organs()  # (B, K, h4, w4)
    annotated = counts[:, :num_organs]  # (B, K)
    known = known * annotated[..., None, None]
    sums["focal"] = focal_sums(output.mask_logits, organs, known)
    sums["mask_dice"] = dice_sums(masks, organs, known, annotated)
    has_known = known.amax(dim=(2, 3))  # (B, K)
    sums["iou"] = iou_sums(output.iou_predictions, masks.detach(), organs, known, annotated * has_known)
    is_present, sure = _presence(target, annotated)
    sums["object_score"] = object_score_sums(output.object_score_logits, is_present, sure)
    if output.map_logits is not None and output.semantic_object_score_logits is not None:
        sums |= _map_sums("semantic_", output.map_logits, small, counts)
        sums["semantic_object_score"] = object_score_sums(output.semantic_object_score_logits, is_present, sure)
        sums["alignment"] = dice_sums(masks, output.map_logits.softmax(dim=1)[:, 1:], known, annotated)
    return sums


def combine_sums(sums: Mapping[str, Tensor], *, weights: LossPlan) -> dict[str, Tensor]:
    """Make the weighted terms, and their total, of the sums over all slices."""
    terms = {
        "dice": weights.dice * dice_of(sums["dice"]),
        "cross_entropy": weights.cross_entropy * mean_of(sums["cross_entropy"]),
    }
    if "coarse_dice" in sums:
        coarse = dice_of(sums["coarse_dice"]) + mean_of(sums["coarse_cross_entropy"])
        terms["deep_supervision"] = weights.deep_supervision * coarse
    terms["mask"] = weights.mask * (FOCAL_TO_DICE * mean_of(sums["focal"]) + dice_of(sums["mask_dice"]))
    terms["iou"] = weights.iou * mean_of(sums["iou"])
    presence = mean_of(sums["object_score"])
    if "semantic_dice" in sums:
        semantic = dice_of(sums["semantic_dice"]) + mean_of(sums["semantic_cross_entropy"])
        terms["semantic"] = weights.semantic * semantic
        presence = presence + mean_of(sums["semantic_object_score"])
        terms["alignment"] = weights.alignment * dice_of(sums["alignment"])
    terms["object_score"] = weights.object_score * presence
    terms["total"] = torch.stack(list(terms.values())).sum()
    return terms


def dice_of(sums: Tensor) -> Tensor:
    """Return 1 - Dice, averaged over the items that were annotated anywhere; of (3, I) from `dice_sums`."""
    overlap, total, counts = sums
    is_counted = (counts > 0).float()
    dice = (2 * overlap + SMOOTH) / (total + SMOOTH)
    return ((1 - dice) * is_counted).sum() / is_counted.sum().clamp(min=1)


def mean_of(sums: Tensor) -> Tensor:
    """Return the mean of (2,) a sum and the number of what was summed; 0 of nothing."""
    return sums[0] / sums[1].clamp(min=1)


def dice_sums(probs: Tensor, target: Tensor, is_known: Tensor, counts: Tensor) -> Tensor:
    """Sum up what Dice needs, over all slices.

    Args:
        probs: (B, I, R, W).
        target: Of the same shape.
        is_known: Of the same shape, or (B, 1, R, W).
        counts: (B, I) ones where an item was annotated.

    Returns:
        (3, I): overlaps, sizes of both together, slices that count.
    """
    probs, target = probs * is_known, target * is_known
    total = probs.sum(dim=(0, 2, 3)) + target.sum(dim=(0, 2, 3))
    return torch.stack([(probs * target).sum(dim=(0, 2, 3)), total, counts.sum(dim=0)])


def cross_entropy_sums(logits: Tensor, target: Target) -> Tensor:
    """Sum up the cross-entropy of the known pixels: minus the log-probability to be any class of the label's set."""
    per_pixel = -(target.shares * target.log_probs_of(logits)).sum(dim=1, keepdim=True)
    return torch.stack([(per_pixel * target.is_known).sum(), target.is_known.sum()])


def focal_sums(logits: Tensor, target: Tensor, is_known: Tensor) -> Tensor:
    """Sum up the focal loss of (B, K, h4, w4) separate masks; the target may hold shares of a pixel."""
    probs = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    is_right = probs * target + (1 - probs) * (1 - target)
    alpha = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    focal = alpha * (1 - is_right) ** FOCAL_GAMMA * entropy * is_known
    return torch.stack([focal.sum(), is_known.expand_as(focal).sum()])


def iou_sums(quality: Tensor, masks: Tensor, target: Tensor, is_known: Tensor, counts: Tensor) -> Tensor:
    """Sum up the L1 distance between the predicted and the measured IoU of the masks at 0.5.

    An organ that is neither there nor predicted has an IoU of 1. `counts` is (B, K), 0 where it was not annotated or no
    pixel is known.
    """
    predicted = (masks > 0.5).float() * is_known
    wanted = (target > 0.5).float() * is_known
    overlap = (predicted * wanted).sum(dim=(2, 3))
    union = ((predicted + wanted) > 0).float().sum(dim=(2, 3))
    measured = torch.where(union > 0, overlap / union.clamp(min=1), torch.ones_like(union))
    return torch.stack([((quality - measured).abs() * counts).sum(), counts.sum()])


def object_score_sums(logits: Tensor, is_present: Tensor, counts: Tensor) -> Tensor:
    """Sum up the cross-entropy of (B, K) presence; `counts` is 0 where nobody knows whether the organ is there."""
    entropy = F.binary_cross_entropy_with_logits(logits, is_present, reduction="none")
    return torch.stack([(entropy * counts).sum(), counts.sum()])


def _map_sums(prefix: str, logits: Tensor, target: Target, counts: Tensor) -> Sums:
    """Sum up Dice and cross-entropy of one map of all classes."""
    wanted, is_known = target.of_items()
    return {
        f"{prefix}dice": dice_sums(target.items_of(logits.softmax(dim=1)), wanted, is_known, counts),
        f"{prefix}cross_entropy": cross_entropy_sums(logits, target),
    }


def _presence(target: Target, annotated: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, K) ones where an organ is in the slice, and ones where that is sure.

    Where pixels are unknown, an organ that is not seen may lie there.
    """
    wanted, is_known = target.of_organs()
    is_present = (wanted * is_known).amax(dim=(2, 3))
    is_whole = is_known.amin(dim=(2, 3))
    return is_present, annotated * torch.maximum(is_present, is_whole)


def join_sums(sums: Mapping[str, Tensor]) -> Tensor:
    """Lay all sums out as one vector."""
    return torch.cat([value.flatten() for value in sums.values()])


def in_total(sums: Mapping[str, Tensor], total: Tensor) -> Sums:
    """Put the sums over all parts of a batch in the place of one part's; the gradient stays that of the part.

    The gradients that all parts find then add up to that of the whole batch.

    Args:
        sums: Of this part.
        total: What `join_sums` gives of all parts, added up.
    """
    vector = _Total.apply(join_sums(sums), total)
    pieces = vector.split([value.numel() for value in sums.values()])
    return {name: piece.view_as(sums[name]) for name, piece in zip(sums, pieces, strict=True)}


class _Total(torch.autograd.Function):
    """The total as a value, the part's own sums on the way back."""

    @staticmethod
    def forward(_context: Any, own: Tensor, total: Tensor) -> Tensor:
        return total.to(own).view_as(own).clone()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
