"""The gradients of some slices of a batch, wherever they are computed.

Owns: `find_gradients`, and the mean over the parts of a batch.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from autoseg.network.device import mixed_precision
from autoseg.network.model import AutosegNetwork
from autoseg.plans import TrainingPlan
from autoseg.training.losses import compute_losses
from autoseg.training.sampling import Batch


@dataclass(frozen=True)
class PartGradients:
    """What one part of a batch says.

    Attributes:
        losses: Each weighted term by name, and "total".
        gradients: One a parameter; zeros for a parameter that the loss does not depend on.
        num_slices: In the part; its weight in the mean.
    """

    losses: dict[str, float]
    gradients: Sequence[Tensor]
    num_slices: int


def find_gradients(
    network: AutosegNetwork,
    parameters: Sequence[Parameter],
    batch: Batch,
    *,
    plan: TrainingPlan,
    scaler: torch.amp.GradScaler | None = None,
) -> PartGradients:
    """Run the network forward and backward; nothing is moved and nothing accumulated.

    Args:
        network: In training mode.
        parameters: Those that gradients are wanted of.
        batch: The whole batch or a part of it.
        plan: Weights of the loss terms, and how far gradients flow in the memory.
        scaler: Scales the gradients for float16; None leaves them as they are.
    """
    device = parameters[0].device
    images = batch.images.to(device, non_blocking=True)
    labels = batch.labels.to(device, non_blocking=True)
    positions = None if batch.positions is None else batch.positions.to(device, non_blocking=True)
    clicks = None if batch.clicks is None else batch.clicks.to(device)
    with mixed_precision(device):
        output = network(
            images,
            batch.organs.to(device, non_blocking=True),
            clicks=clicks,
            positions=positions,
            gradient_slices=plan.memory_gradient_slices,
        )
    terms = compute_losses(output.float(), labels, weights=plan.loss)
    total = terms["total"] if scaler is None else scaler.scale(terms["total"])
    found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    gradients = [_lay_out_like(parameter, gradient) for parameter, gradient in zip(parameters, found, strict=True)]
    values = torch.stack([term.detach() for term in terms.values()]).tolist()
    return PartGradients(dict(zip(terms, values, strict=True)), gradients, len(images))


def _lay_out_like(parameter: Parameter, gradient: Tensor) -> Tensor:
    """Return the gradient in its parameter's memory layout; that of a transposed convolution comes in another.

    Fused optimisers go through both by address: on CUDA they refuse another layout, on a CPU they would move the wrong
    weights without a word.
    """
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


def average_parts(parts: Sequence[PartGradients]) -> tuple[dict[str, float], list[Tensor]]:
    """Average losses and gradients over the slices of all parts."""
    if len(parts) == 1:
        return dict(parts[0].losses), list(parts[0].gradients)
    total = sum(part.num_slices for part in parts)
    losses: dict[str, float] = defaultdict(float)
    for part in parts:
        for name, value in part.losses.items():
            losses[name] += value * part.num_slices / total
    # All tensors at once: a network has hundreds of small ones, and the other cores wait while this one adds.
    gradients = torch._foreach_mul(list(parts[0].gradients), parts[0].num_slices / total)
    for part in parts[1:]:
        torch._foreach_add_(gradients, list(part.gradients), alpha=part.num_slices / total)
    return dict(losses), list(gradients)
