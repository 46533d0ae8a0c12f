"""Compares the IoU that SAM's decoder predicts for its masks with the IoU that they have.

Owns: `iou_sums`. Source: SAM (Kirillov et al. 2023, "Segment anything"), section 3; CRISP-SAM2.
"""

import torch
from torch import Tensor


def iou_sums(iou_predictions: Tensor, masks: Tensor, target: Tensor, is_known: Tensor, counts: Tensor) -> Tensor:
    """Sum the L1 distance between the predicted and the measured IoU of the masks at 0.5.

    An organ that is neither present nor predicted has an IoU of 1.

    Args:
        iou_predictions: (B, K), 0 to 1.
        masks: (B, K, h, w) probabilities.
        target: (B, K, h, w) reference, 0 to 1.
        is_known: (B, K, h, w) ones where the reference is known.
        counts: (B, K) zeros where an organ was not annotated, or no pixel is known.

    Returns:
        (2,): the sum and the number of masks.
    """
    predicted = (masks > 0.5).float() * is_known
    wanted = (target > 0.5).float() * is_known
    overlap = (predicted * wanted).sum(dim=(2, 3))
    union = ((predicted + wanted) > 0).float().sum(dim=(2, 3))
    measured = torch.where(union > 0, overlap / union.clamp(min=1), torch.ones_like(union))
    return torch.stack([((iou_predictions - measured).abs() * counts).sum(), counts.sum()])
