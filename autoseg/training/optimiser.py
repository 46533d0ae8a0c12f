"""AdamW and its learning rate.

Owns: which weights decay, and the rate as a function of how far the run is (by steps or by time).
"""

import math

import torch
from torch import nn

from autoseg.plans import TrainingPlan


def build_optimiser(network: nn.Module, *, plan: TrainingPlan) -> torch.optim.AdamW:
    """Build AdamW; biases, norms and single tokens do not decay."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim >= 2]
    free = [p for p in network.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": free, "weight_decay": 0.0}]
    # The fused kernel is several times faster than the default where tensors are many and small.
    return torch.optim.AdamW(groups, lr=plan.learning_rate, fused=True)


def learning_rate(plan: TrainingPlan, *, progress: float) -> float:
    """Return the rate at `progress` (0 to 1): a linear warm-up, then a cosine down to a thousandth of the peak."""
    if progress < plan.warmup_fraction:
        return plan.learning_rate * (0.01 + 0.99 * progress / plan.warmup_fraction)
    rest = (progress - plan.warmup_fraction) / (1 - plan.warmup_fraction)
    return plan.learning_rate * max(0.001, 0.5 * (1 + math.cos(math.pi * min(1.0, rest))))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate
