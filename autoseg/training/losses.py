"""The loss: every output of the network against the reference, each pixel that was not annotated left out.

Owns: the terms, their sum by the plan's weights.

Sources: CRISP-SAM2 (focal to Dice 20:1, IoU against the measured IoU, original and refined masks); SEG-SAM
(semantic map, classification, cross-mask spatial alignment).

Legend: B slices, K organs asked for, R x W the window, h4 x w4 the decoders' grid. Labels are 0 for background, 1..K
for the organs in the order asked, and IGNORE.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.network.model import NetworkOutput
from autoseg.plans import LossPlan

IGNORE = -1
FOCAL_TO_DICE = 20.0
FOCAL_GAMMA = 2.0
FOCAL_ALPHA = 0.25
LEFT_OUT_LOGIT = -1e4  # of a map's organ that was not annotated: probability 0, and no gradient
SMOOTH = 1.0  # voxels; keeps Dice of an organ that is absent from the whole batch at a defined value


def compute_losses(
    output: NetworkOutput, labels: Tensor, *, weights: LossPlan, annotated: Tensor | None = None
) -> dict[str, Tensor]:
    """Compute the weighted terms.

    Args:
        output: Of the network.
        labels: (B, R, W) integers, see the legend.
        weights: From the plan.
        annotated: (B, K) False where the organ was not annotated in the slice's case: of the maps the organ is left out
            there, and the masks and numbers of it do not count. None: all were.

    Returns:
        Each weighted term by name, and their sum as "total".
    """
    num_organs = output.mask_logits.shape[1]
    if annotated is None:
        counts = output.mask_logits.new_ones(output.mask_logits.shape[:2])  # (B, K)
    else:
        output, labels = leave_out(output, labels, annotated)
        counts = annotated.float()
    target, is_known = one_hot(labels, num_organs)  # (B, 1 + K, R, W), (B, 1, R, W)
    terms = {
        "dice": weights.dice * dice_loss(output.logits.softmax(dim=1), target, is_known),
        "cross_entropy": weights.cross_entropy * soft_cross_entropy(output.logits, target, is_known),
    }
    if output.coarse_logits is not None:
        terms["deep_supervision"] = weights.deep_supervision * _map_loss(output.coarse_logits, target, is_known)
    size = output.mask_logits.shape[-2:]
    small_target, small_known = shrink(target, is_known, size)
    masks = output.mask_logits.sigmoid()
    organs = small_target[:, 1:]  # (B, K, h4, w4), shares of a pixel
    organs_known = small_known * counts[..., None, None]  # (B, K, h4, w4)
    terms["mask"] = weights.mask * mask_loss(output.mask_logits, organs, organs_known)
    has_known = small_known.amax(dim=(2, 3))  # (B, 1)
    terms["quality"] = weights.quality * quality_loss(
        output.quality, masks.detach(), organs, organs_known, counts * has_known
    )
    is_present = (target[:, 1:] * is_known).amax(dim=(2, 3))  # (B, K)
    is_whole = is_known.amin(dim=(2, 3))  # (B, 1); elsewhere an organ that is not seen may lie where it is ignored
    sure = counts * torch.maximum(is_present, is_whole)
    presence = presence_loss(output.presence_logits, is_present, sure)
    if output.map_logits is not None and output.semantic_presence_logits is not None:
        terms["semantic"] = weights.semantic * _map_loss(output.map_logits, target, is_known)
        presence = presence + presence_loss(output.semantic_presence_logits, is_present, sure)
        terms["alignment"] = weights.alignment * alignment_loss(
            masks, output.map_logits.softmax(dim=1)[:, 1:], organs_known
        )
    terms["presence"] = weights.presence * presence
    terms["total"] = torch.stack(list(terms.values())).sum()
    return terms


def leave_out(output: NetworkOutput, labels: Tensor, annotated: Tensor) -> tuple[NetworkOutput, Tensor]:
    """Take organs out of the maps of slices in which they were not annotated; no gradient reaches them there.

    A pixel that is labelled with such an organ all the same is unknown.
    """
    counts = F.pad(annotated, (1, 0), value=True)  # (B, 1 + K), background always
    gone = ~counts[..., None, None]

    def hide(maps: Tensor | None) -> Tensor | None:
        return None if maps is None else maps.masked_fill(gone, LEFT_OUT_LOGIT)

    is_odd = ~counts.gather(1, labels.clamp(min=0).flatten(1)).view_as(labels)
    logits = output.logits.masked_fill(gone, LEFT_OUT_LOGIT)
    hidden = replace(
        output, logits=logits, coarse_logits=hide(output.coarse_logits), map_logits=hide(output.map_logits)
    )
    return hidden, labels.masked_fill(is_odd, IGNORE)


def one_hot(labels: Tensor, num_organs: int) -> tuple[Tensor, Tensor]:
    """Turn (B, R, W) labels into (B, 1 + K, R, W) zeros and ones, and (B, 1, R, W) ones where the label is known."""
    is_known = (labels != IGNORE).unsqueeze(1)
    values = torch.arange(1 + num_organs, device=labels.device).view(1, -1, 1, 1)
    return (labels.unsqueeze(1) == values).float(), is_known.float()


def shrink(target: Tensor, is_known: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Average both over the cells of a smaller grid; each target becomes the share among the cell's known pixels."""
    rows, columns = size
    known = F.adaptive_avg_pool2d(is_known, (rows, columns))
    shares = F.adaptive_avg_pool2d(target * is_known, (rows, columns)) / known.clamp(min=1e-6)
    return shares, (known > 0.5).float()


def dice_loss(probs: Tensor, target: Tensor, is_known: Tensor) -> Tensor:
    """Return 1 - Dice, averaged over the organs; sums run over all slices given, background does not count.

    Args:
        probs: (B, 1 + K, R, W).
        target: Of the same shape.
        is_known: (B, 1, R, W), or (B, K, R, W) where it differs between the organs.
    """
    probs, target = probs[:, 1:] * is_known, target[:, 1:] * is_known
    overlap = (probs * target).sum(dim=(0, 2, 3))
    total = probs.sum(dim=(0, 2, 3)) + target.sum(dim=(0, 2, 3))
    return 1 - ((2 * overlap + SMOOTH) / (total + SMOOTH)).mean()


def soft_cross_entropy(logits: Tensor, target: Tensor, is_known: Tensor) -> Tensor:
    """Average the cross-entropy over the known pixels; the target may hold shares."""
    per_pixel = -(target * logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)
    return (per_pixel * is_known).sum() / is_known.sum().clamp(min=1)


def mask_loss(logits: Tensor, target: Tensor, is_known: Tensor) -> Tensor:
    """Return focal and Dice loss of separate masks, 20:1 (CRISP-SAM2), both as means so that no size counts more.

    Args:
        logits: (B, K, h4, w4).
        target: (B, K, h4, w4) shares of a pixel.
        is_known: (B, K, h4, w4).
    """
    probs = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    is_right = probs * target + (1 - probs) * (1 - target)
    alpha = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    focal = (alpha * (1 - is_right) ** FOCAL_GAMMA * entropy * is_known).sum()
    focal = focal / is_known.sum().clamp(min=1)
    padded_probs, padded_target = F.pad(probs, (0, 0, 0, 0, 1, 0)), F.pad(target, (0, 0, 0, 0, 1, 0))
    return FOCAL_TO_DICE * focal + dice_loss(padded_probs, padded_target, is_known)


def quality_loss(quality: Tensor, masks: Tensor, target: Tensor, is_known: Tensor, counts: Tensor) -> Tensor:
    """Return the L1 distance between the predicted and the measured IoU of the masks at 0.5.

    An organ that is neither there nor predicted has an IoU of 1. `counts` is (B, K), 0 where it was not annotated or no
    pixel is known.
    """
    predicted = (masks > 0.5).float() * is_known
    wanted = (target > 0.5).float() * is_known
    overlap = (predicted * wanted).sum(dim=(2, 3))
    union = ((predicted + wanted) > 0).float().sum(dim=(2, 3))
    measured = torch.where(union > 0, overlap / union.clamp(min=1), torch.ones_like(union))
    return ((quality - measured).abs() * counts).sum() / counts.sum().clamp(min=1)


def presence_loss(logits: Tensor, is_present: Tensor, counts: Tensor) -> Tensor:
    """Return the cross-entropy of (B, K) presence; `counts` is 0 where nobody knows whether the organ is there."""
    entropy = F.binary_cross_entropy_with_logits(logits, is_present, reduction="none")
    return (entropy * counts).sum() / counts.sum().clamp(min=1)


def alignment_loss(masks: Tensor, maps: Tensor, is_known: Tensor) -> Tensor:
    """Ask both decoders for the same place: 1 - Dice between their probabilities (SEG-SAM, cross-mask alignment).

    Args:
        masks: (B, K, h4, w4) of SAM's decoder.
        maps: (B, K, h4, w4) of the semantic-aware decoder.
        is_known: (B, K, h4, w4).
    """
    return dice_loss(F.pad(masks, (0, 0, 0, 0, 1, 0)), F.pad(maps, (0, 0, 0, 0, 1, 0)), is_known)


def _map_loss(logits: Tensor, target: Tensor, is_known: Tensor) -> Tensor:
    small_target, small_known = shrink(target, is_known, logits.shape[-2:])
    return dice_loss(logits.softmax(dim=1), small_target, small_known) + soft_cross_entropy(
        logits, small_target, small_known
    )
