"""Computes cross-entropies as sums over pixels or organs, from which `mean_of` makes means.

Does not own: what the reference says about a pixel (`targets.py`), the weights of the terms (`compound_loss.py`).

Source of the focal loss: Lin et al. 2017, "Focal loss for dense object detection", equation 5; CRISP-SAM2 uses it for
the masks of SAM's decoder.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.training.loss.targets import Target

FOCAL_GAMMA = 2.0
FOCAL_ALPHA = 0.25


def mean_of(sums: Tensor) -> Tensor:
    """Return the mean from (2,), a sum and the number of its items; 0 for no items."""
    return sums[0] / sums[1].clamp(min=1)


def cross_entropy_sums(logits: Tensor, target: Target) -> Tensor:
    """Return (2,): the summed cross-entropy of (B, 1 + K, R, W) logits, and the number of known pixels.

    The cross-entropy is minus the log-probability of any class that the label allows.
    """
    per_pixel = -(target.shares * target.log_probs_of(logits)).sum(dim=1, keepdim=True)
    return torch.stack([(per_pixel * target.is_known).sum(), target.is_known.sum()])


def focal_sums(logits: Tensor, target: Tensor, is_known: Tensor) -> Tensor:
    """Sum the focal loss of (B, K, R, W) separate masks; the target may hold fractions of a pixel."""
    probs = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    is_right = probs * target + (1 - probs) * (1 - target)
    alpha = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    focal = alpha * (1 - is_right) ** FOCAL_GAMMA * entropy * is_known
    return torch.stack([focal.sum(), is_known.expand_as(focal).sum()])


def binary_sums(logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Sum the binary cross-entropy of (B, K) scores; `counts` is 0 where the truth is not known."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.stack([(entropy * counts).sum(), counts.sum()])
