"""Schedules the learning rate: a linear warm-up and a cosine, as a function of progress."""

import math
from collections.abc import Sequence

import torch

from autoseg.config.plans import TrainingPlan


def learning_rate(plan: TrainingPlan, *, progress: float) -> float:
    """Return the rate at `progress` (0 to 1): a linear warm-up, then a cosine down to a thousandth of the peak."""
    if progress < plan.warmup_fraction:
        return plan.learning_rate * (0.01 + 0.99 * progress / plan.warmup_fraction)
    rest = (progress - plan.warmup_fraction) / (1 - plan.warmup_fraction)
    return plan.learning_rate * max(0.001, 0.5 * (1 + math.cos(math.pi * min(1.0, rest))))


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float, *, progress: float) -> None:
    """Set the rate of all parameter groups, each times the group's factor; 0 while the group is frozen."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"] if progress >= group["frozen_until"] else 0.0
