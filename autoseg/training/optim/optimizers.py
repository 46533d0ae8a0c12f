"""Builds the optimizers.

Owns: which weights AdamW updates and which Muon, and which of them decay.
Does not own: the schedule of the learning rate (`learning_rate.py`), rates of pretrained weights
(`pretrained_rates.py`).
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import Parameter

from autoseg.config.plans import Plans
from autoseg.training.optim.muon import Muon
from autoseg.training.optim.pretrained_rates import pretrained_factors

LEAST_KERNEL_SIDE = 16  # below, a matrix has too few directions for their equal length to mean anything


def build_optimizers(
    network: nn.Module, *, plans: Plans, pretrained: Iterable[str] = ()
) -> tuple[torch.optim.Optimizer, ...]:
    """Build AdamW, and Muon for the refiner's kernels where the plan says so.

    Biases, norms and single tokens do not decay. Weights that came from a checkpoint, named by `pretrained`, have
    learning rates of their own (`pretrained_rates.py`); the refiner has none of them.
    """
    plan = plans.training
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    kernels = {
        name: parameter
        for name, parameter in trained.items()
        if plan.refiner_optimizer == "muon" and name.startswith("refiner.") and _is_kernel(parameter)
    }
    factors = pretrained_factors(pretrained, plans=plans)
    groups: dict[tuple[float, float, float], list[Parameter]] = {}
    for name, parameter in trained.items():
        if name not in kernels:
            decay = plan.weight_decay if parameter.ndim >= 2 else 0.0
            frozen_until = plan.freeze_fraction if name in factors else 0.0
            groups.setdefault((decay, factors.get(name, 1.0), frozen_until), []).append(parameter)
    # The fused kernel is several times faster than the default where tensors are many and small.
    adamw = torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "rate_factor": factor, "frozen_until": frozen_until}
            for (decay, factor, frozen_until), parameters in groups.items()
        ],
        lr=plan.learning_rate,
        fused=True,
    )
    if not kernels:
        return (adamw,)
    group = {"params": list(kernels.values()), "rate_factor": plan.muon_learning_rate_factor, "frozen_until": 0.0}
    return adamw, Muon([group], lr=plan.learning_rate, weight_decay=plan.weight_decay)


def _is_kernel(parameter: Parameter) -> bool:
    return parameter.ndim == 4 and min(parameter.flatten(1).shape) >= LEAST_KERNEL_SIDE
