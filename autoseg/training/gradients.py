"""The gradients of some slices of a batch, wherever they are computed.

Owns: `find_gradients`, `find_gradients_in_room` where memory is scarce, and the mean over the parts of a batch.
Does not own: how a batch is cut (`pieces.py`).
"""

import gc
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from autoseg.errors import TrainingError
from autoseg.network.device import is_out_of_memory, mixed_precision
from autoseg.network.model import AutosegNetwork, NetworkOutput
from autoseg.plans import TrainingPlan
from autoseg.training.device_augmentation import make_changes
from autoseg.training.losses import compute_losses
from autoseg.training.pieces import Room, clip_length, run_in_pieces
from autoseg.training.sampling import Batch

log = logging.getLogger("autoseg")


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
    slices_at_once: int | None = None,
) -> PartGradients:
    """Run the network forward and backward; nothing is moved and nothing accumulated.

    Args:
        network: In training mode.
        parameters: Those that gradients are wanted of.
        batch: The whole batch or a part of it.
        plan: Weights of the loss terms, and how far gradients flow in the memory.
        scaler: Scales the gradients for float16; None leaves them as they are.
        slices_at_once: Of how many slices activations are kept; None: of all. The gradients are the same.

    Raises:
        torch.OutOfMemoryError: The device's memory is full; or RuntimeError, see `is_out_of_memory`.
    """
    device = parameters[0].device
    batch = make_changes(move(batch, device))

    def run(piece: Batch) -> NetworkOutput:
        with mixed_precision(device):
            output: NetworkOutput = network(
                piece.images,
                piece.organs,
                clicks=piece.clicks,
                positions=piece.positions,
                gradient_slices=plan.memory_gradient_slices,
            )
        return output.float()

    output = run_in_pieces(run, batch, slices_at_once)
    terms = compute_losses(output, batch.labels, weights=plan.loss, sets=batch.sets)
    total = terms["total"] if scaler is None else scaler.scale(terms["total"])
    found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    gradients = [_lay_out_like(parameter, gradient) for parameter, gradient in zip(parameters, found, strict=True)]
    values = torch.stack([term.detach() for term in terms.values()]).tolist()
    return PartGradients(dict(zip(terms, values, strict=True)), gradients, len(batch.images))


def find_gradients_in_room(
    network: AutosegNetwork,
    parameters: Sequence[Parameter],
    batch: Batch,
    *,
    plan: TrainingPlan,
    scaler: torch.amp.GradScaler | None = None,
    room: Room,
) -> PartGradients:
    """Find gradients as `find_gradients`; where memory is full, of half as many slices at once, again and again.

    Args:
        network: As there, like the next four.
        parameters: Those that gradients are wanted of.
        batch: The whole batch or a part of it.
        plan: Of the training.
        scaler: For float16.
        room: What is known of the memory; what is found out here is written there for the steps to come.

    Raises:
        TrainingError: There is no room for one slice, or one clip.
    """
    device, least = parameters[0].device, clip_length(batch)
    while True:
        at_once = len(batch.images) if room.slices is None else min(room.slices, len(batch.images))
        try:
            return find_gradients(network, parameters, batch, plan=plan, scaler=scaler, slices_at_once=room.slices)
        except (RuntimeError, MemoryError) as error:  # the parent of torch.OutOfMemoryError
            if not is_out_of_memory(error):
                raise
            message = str(error).partition("\n")[0]  # not the error, whose frames hold what filled the memory
        gc.collect()  # frames and what they hold may refer to each other
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if at_once <= least:
            raise TrainingError(
                explain_full_memory(device, message, what=f"one {'clip' if least > 1 else 'slice'} at a time")
            )
        room.slices = max(least, at_once // 2)
        log.warning(
            "the memory of %s is full; %d of a step's slices at a time from now on, with the same gradients (%s).",
            device,
            room.slices,
            message,
        )


def seed_dropout(seed: int, *, step: int, first_slice: int) -> None:
    """Make what dropout draws depend on the step alone, as the batch does, so that a resumed run equals another.

    Args:
        seed: Of the training.
        step: Whose gradients are found next.
        first_slice: Of the part of its batch.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, first_slice]).generate_state(1, np.uint64)[0] >> 1))


def explain_full_memory(device: torch.device, message: str, *, what: str) -> str:
    """Say that not even the least found room, and what to do."""
    other = "" if device.type == "cpu" else ", or train with --device cpu"
    return (
        f"the memory of {device} is full even with {what}: {message.rstrip('.')}. Plan again with a smaller "
        f"network.image_size_px, network.backbone or training.batch_slices{other}."
    )


def move(batch: Batch, device: torch.device) -> Batch:
    """Bring a batch to a device; from memory that stays in its place this goes on while other work begins."""
    return replace(
        batch,
        images=batch.images.to(device, non_blocking=True),
        labels=batch.labels.to(device, non_blocking=True),
        organs=batch.organs.to(device, non_blocking=True),
        positions=None if batch.positions is None else batch.positions.to(device, non_blocking=True),
        clicks=None if batch.clicks is None else batch.clicks.to(device),
        sets=None if batch.sets is None else batch.sets.to(device),
    )


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
