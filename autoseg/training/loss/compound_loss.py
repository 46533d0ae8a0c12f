"""Computes the default loss: every output of the network against the reference, weighted by the plan.

Owns: `CompoundLoss`, its terms, and the sum over ranks. Does not own: the formulas (`dice.py`, `cross_entropy.py`,
`iou_prediction.py`), what the reference says about a pixel (`targets.py`).

Sources: CRISP-SAM2 (focal to Dice 20:1, predicted against measured IoU, original and refined masks); SEG-SAM (semantic
map, classification, cross-mask spatial alignment).

Every term follows from sums over slices, which the ranks add up, so the loss is that of the whole batch.

Legend: B slices, K requested organs, I items (organs and regions), h4 x w4 the decoders' grid.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from autoseg.config.plans import LossPlan
from autoseg.distributed.ranks import ONE_RANK, Ranks
from autoseg.network.output import NetworkOutput
from autoseg.training.loss.cross_entropy import binary_sums, cross_entropy_sums, focal_sums, mean_of
from autoseg.training.loss.cross_mask_alignment import alignment_sums
from autoseg.training.loss.dice import dice_loss, dice_sums
from autoseg.training.loss.iou_prediction import iou_sums
from autoseg.training.loss.targets import Target

Loss = Callable[[Any, Target], Mapping[str, Tensor]]
Sums = dict[str, Tensor]
FOCAL_TO_DICE = 20.0


class CompoundLoss:
    """The loss that the plan describes; a function of a batch's output and target.

    Example:
        >>> loss = CompoundLoss(plans.training.loss)
        >>> losses = loss(network(images, organs), make_target(labels, num_organs=2))
        >>> losses["total"].backward()
    """

    def __init__(self, weights: LossPlan, *, ranks: Ranks = ONE_RANK) -> None:
        """Take the weights of the terms, and the ranks that hold the other shards of each batch."""
        self.weights, self.ranks = weights, ranks

    def __call__(self, output: NetworkOutput, target: Target) -> dict[str, Tensor]:
        """Compute the weighted terms of the whole batch by name, and their sum as "total".

        Args:
            output: The network's output for this rank's shard; terms whose outputs are None are left out.
            target: The reference of this shard.
        """
        return combine_sums(sum_over_ranks(measure_sums(output, target), self.ranks), weights=self.weights)


def measure_sums(output: NetworkOutput, target: Target) -> Sums:
    """Measure the sums that all terms follow from; those of two shards add up to those of both together."""
    counts = target.counts(len(output.logits))  # (B, I)
    sums = _map_sums("", output.logits, target, counts)
    if output.coarse_logits is not None:
        sums |= _map_sums("coarse_", output.coarse_logits, target.shrink(output.coarse_logits.shape[-2:]), counts)
    annotated = counts[:, : output.logits.shape[1] - 1]  # (B, K)
    is_present, is_sure = _organs_in_slices(target, annotated)
    if output.mask_logits is not None:
        sums |= _mask_sums(output, output.mask_logits, target, counts, annotated)
    if output.object_score_logits is not None:
        sums["object_score"] = binary_sums(output.object_score_logits, is_present, is_sure)
    if output.semantic_object_score_logits is not None:
        sums["semantic_object_score"] = binary_sums(output.semantic_object_score_logits, is_present, is_sure)
    return sums


def combine_sums(sums: Mapping[str, Tensor], *, weights: LossPlan) -> dict[str, Tensor]:
    """Compute the weighted terms and their total from the sums over all slices."""
    terms = {
        "dice": weights.dice * dice_loss(sums["dice"]),
        "cross_entropy": weights.cross_entropy * mean_of(sums["cross_entropy"]),
    }
    if "coarse_dice" in sums:
        terms["deep_supervision"] = weights.deep_supervision * _dice_and_cross_entropy(sums, "coarse_")
    if "focal" in sums:
        terms["mask"] = weights.mask * (FOCAL_TO_DICE * mean_of(sums["focal"]) + dice_loss(sums["mask_dice"]))
    if "iou" in sums:
        terms["iou"] = weights.iou * mean_of(sums["iou"])
    if "semantic_dice" in sums:
        terms["semantic"] = weights.semantic * _dice_and_cross_entropy(sums, "semantic_")
    if "alignment" in sums:
        terms["alignment"] = weights.alignment * dice_loss(sums["alignment"])
    scores = [mean_of(sums[name]) for name in ("object_score", "semantic_object_score") if name in sums]
    if scores:
        terms["object_score"] = weights.object_score * torch.stack(scores).sum()
    terms["total"] = torch.stack(list(terms.values())).sum()
    return terms


def sum_over_ranks(sums: Sums, ranks: Ranks) -> Sums:
    """Add up the sums of all ranks in one exchange; gradients flow back into this rank's own."""
    if ranks.world_size == 1:
        return sums
    own = torch.cat([value.flatten() for value in sums.values()])
    pieces = _SumOverRanks.apply(own, ranks).split([value.numel() for value in sums.values()])
    return {name: piece.view_as(sums[name]) for name, piece in zip(sums, pieces, strict=True)}


class _SumOverRanks(torch.autograd.Function):
    """A differentiable sum over ranks.

    All ranks compute the same loss from the sum, so the gradients that they would send each other are equal: each
    multiplies its own by the number of ranks. The mean of their weights' gradients is then that of the whole batch.
    """

    @staticmethod
    def forward(context: Any, own: Tensor, ranks: Ranks) -> Tensor:
        context.world_size = ranks.world_size
        return ranks.all_reduce(own.clone())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * context.world_size, None


def _map_sums(prefix: str, logits: Tensor, target: Target, counts: Tensor) -> Sums:
    """Sum Dice and cross-entropy of a map over all classes."""
    wanted, is_known = target.of_items()
    return {
        f"{prefix}dice": dice_sums(target.items_of(logits.softmax(dim=1)), wanted, is_known, counts),
        f"{prefix}cross_entropy": cross_entropy_sums(logits, target),
    }


def _mask_sums(output: NetworkOutput, mask_logits: Tensor, target: Target, counts: Tensor, annotated: Tensor) -> Sums:
    """Sum the terms of both decoders' masks, on their grid."""
    small = target.shrink(mask_logits.shape[-2:])
    masks = mask_logits.sigmoid()
    organs, known = small.of_organs()  # (B, K, h4, w4)
    known = known * annotated[..., None, None]
    sums = {
        "focal": focal_sums(mask_logits, organs, known),
        "mask_dice": dice_sums(masks, organs, known, annotated),
    }
    if output.iou_predictions is not None:
        has_known = known.amax(dim=(2, 3))  # (B, K)
        sums["iou"] = iou_sums(output.iou_predictions, masks.detach(), organs, known, annotated * has_known)
    if output.map_logits is not None:
        sums |= _map_sums("semantic_", output.map_logits, small, counts)
        sums["alignment"] = alignment_sums(masks, output.map_logits, known=known, annotated=annotated)
    return sums


def _dice_and_cross_entropy(sums: Mapping[str, Tensor], prefix: str) -> Tensor:
    return dice_loss(sums[f"{prefix}dice"]) + mean_of(sums[f"{prefix}cross_entropy"])


def _organs_in_slices(target: Target, annotated: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, K) ones where an organ is in the slice, and ones where that is certain.

    An organ that is not seen may still lie where pixels are unknown.
    """
    wanted, is_known = target.of_organs()
    is_present = (wanted * is_known).amax(dim=(2, 3))
    is_whole = is_known.amin(dim=(2, 3))
    return is_present, annotated * torch.maximum(is_present, is_whole)
