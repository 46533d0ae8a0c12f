"""The gradients of some slices of a batch, wherever they are computed.

Owns: `find_gradients` and its two halves, there (`measure`) and back (`turn_back`); `find_gradients_in_room` where
memory is scarce; the sum over the parts of a batch.
Does not own: how a batch is cut (`micro_batches.py`), who holds its parts (`core_processes.py`,
`distributed/collectives.py`).

The loss is no mean over slices, but follows from sums over all of them. So between there and back the sums of all parts
are added up, and the gradients of the parts add up to the gradient of the whole batch.
"""

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from autoseg.config.plans import TrainingPlan
from autoseg.errors import TrainingError
from autoseg.network.model import AutosegNetwork, NetworkOutput
from autoseg.system.torch_device import is_out_of_memory, mixed_precision
from autoseg.training.data.device_augmentation import make_changes
from autoseg.training.data.sampler import Batch
from autoseg.training.loss.losses import Sums, combine_sums, in_total, join_sums, measure_sums
from autoseg.training.loss.targets import make_target
from autoseg.training.micro_batches import Room, clip_length, measure_in_pieces
from autoseg.training.step_share import add_in_pairs

log = logging.getLogger("autoseg")

AddUp = Callable[[Tensor], Tensor]
WHOLE = Room()


@dataclass(frozen=True)
class PartGradients:
    """What one part of a batch says.

    Attributes:
        losses: Each weighted term by name, and "total": of the whole batch, whose sums went into it.
        gradients: One a parameter, this part's share of the whole batch's; zeros for a parameter that the loss does not
            depend on.
    """

    losses: dict[str, float]
    gradients: Sequence[Tensor]


def find_gradients(
    network: AutosegNetwork,
    parameters: Sequence[Parameter],
    batch: Batch,
    *,
    plan: TrainingPlan,
    scaler: torch.amp.GradScaler | None = None,
    room: Room = WHOLE,
    add_up: AddUp | None = None,
) -> PartGradients:
    """Run the network forward and backward; nothing is moved and nothing accumulated.

    Args:
        network: In training mode.
        parameters: Those that gradients are wanted of.
        batch: The whole batch or a part of it.
        plan: Weights of the loss terms, and how far gradients flow in the memory.
        scaler: Scales the gradients for float16; None leaves them as they are.
        room: How the batch goes through the network; the gradients are the same.
        add_up: Adds the vector of this part's sums to those of all other parts; None: this is the whole batch.

    Raises:
        torch.OutOfMemoryError: The device's memory is full; or RuntimeError, see `is_out_of_memory`.
    """
    blocks = [measure(network, block, plan=plan, slices_at_once=room.slices) for block in room.cut(batch)]
    total = add_in_pairs([join_sums(sums).detach() for sums in blocks], torch.add)
    if add_up is not None:
        total = add_up(total)
    return add_parts([turn_back(sums, parameters, total=total, plan=plan, scaler=scaler) for sums in blocks])


def measure(network: AutosegNetwork, batch: Batch, *, plan: TrainingPlan, slices_at_once: int | None = None) -> Sums:
    """Run the network forward, up to the sums that the loss follows from, with the way back to the weights.

    Args:
        network: In training mode.
        batch: As in `find_gradients`, like the other two.
        plan: Of the training.
        slices_at_once: Of how many slices activations are kept.
    """
    device = next(network.parameters()).device
    batch = make_changes(move(batch, device))

    def measure_piece(piece: Batch) -> Sums:
        with mixed_precision(device):
            output: NetworkOutput = network(
                piece.images,
                piece.organs,
                clicks=piece.clicks,
                positions=piece.positions,
                gradient_slices=plan.memory_gradient_slices,
            )
        return measure_sums(output.float(), make_target(piece.labels, num_organs=len(piece.organs), sets=piece.sets))

    return measure_in_pieces(measure_piece, batch, slices_at_once)


def turn_back(
    sums: Sums,
    parameters: Sequence[Parameter],
    *,
    total: Tensor,
    plan: TrainingPlan,
    scaler: torch.amp.GradScaler | None = None,
) -> PartGradients:
    """Go from sums back to the weights.

    Args:
        sums: From `measure`, which can be gone back from once.
        parameters: As in `find_gradients`, like the last two.
        total: The sums of all parts, in one vector.
        plan: Of the training.
        scaler: For float16.
    """
    terms = combine_sums(in_total(sums, total), weights=plan.loss)
    loss = terms["total"] if scaler is None else scaler.scale(terms["total"])
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    gradients = [_lay_out_like(parameter, gradient) for parameter, gradient in zip(parameters, found, strict=True)]
    values = torch.stack([term.detach() for term in terms.values()]).tolist()
    return PartGradients(dict(zip(terms, values, strict=True)), gradients)


def find_gradients_in_room(
    network: AutosegNetwork,
    parameters: Sequence[Parameter],
    batch: Batch,
    *,
    plan: TrainingPlan,
    scaler: torch.amp.GradScaler | None = None,
    room: Room,
    add_up: AddUp | None = None,
) -> PartGradients:
    """Find gradients as `find_gradients`; where memory is full, of half as many slices at once, again and again.

    Args:
        network: As there, like the next four.
        parameters: Those that gradients are wanted of.
        batch: The whole batch or a part of it.
        plan: Of the training.
        scaler: For float16.
        room: What is known of the memory; what is found out here is written there for the steps to come.
        add_up: As there, and it must bear to be called again with the same sums.

    Raises:
        TrainingError: There is no room for one slice, or one clip.
    """
    device, least = parameters[0].device, clip_length(batch)
    while True:
        at_once = len(batch.images) if room.slices is None else min(room.slices, len(batch.images))
        try:
            return find_gradients(network, parameters, batch, plan=plan, scaler=scaler, room=room, add_up=add_up)
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

    Fused optimizers go through both by address: on CUDA they refuse another layout, on a CPU they would move the wrong
    weights without a word.
    """
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)


def add_parts(parts: Sequence[PartGradients]) -> PartGradients:
    """Return the losses, which all parts share, and the sum of their gradients."""

    def add(one: Sequence[Tensor], other: Sequence[Tensor]) -> Sequence[Tensor]:
        # All tensors at once: a network has hundreds of small ones, and the other cores wait while this one adds.
        return torch._foreach_add(list(one), list(other))

    return PartGradients(parts[0].losses, add_in_pairs([part.gradients for part in parts], add))
