"""Does one training step: forward, loss, backward, the sum over ranks, and the update of the weights.

Owns: `train_step`.
Does not own: the loss (`loss/compound_loss.py`), batches (`data/`), what follows when steps go wrong (`trainer.py`).
"""

import logging
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from autoseg.distributed.ranks import Ranks
from autoseg.system.out_of_memory import MEMORY_ERRORS, halve
from autoseg.system.signals import defer_signals
from autoseg.system.torch_device import mixed_precision
from autoseg.training.context import TrainingContext
from autoseg.training.data.batch import Batch
from autoseg.training.data.device_augmentation import make_changes
from autoseg.training.optim.muon import Muon
from autoseg.training.state import TrainState, update_average

log = logging.getLogger("autoseg")


def train_step(state: TrainState, batch: Batch, context: TrainingContext) -> dict[str, float] | None:
    """Update the weights by one batch, this rank's shard of the step's, and count the step even if nothing is updated.

    Returns:
        The terms of the loss, averaged over micro-batches and ranks; None where the loss or a gradient was not finite,
        and the weights stayed as they were.

    Raises:
        TrainingError: The device's memory is full even with one slice at a time.
    """
    plan = context.plans.training
    batch = make_changes(batch.to(state.device))
    while True:
        seed_dropout(plan.seed, step=state.step, rank=context.ranks.rank)
        try:
            own_losses = accumulate_gradients(state, batch, context)
            break
        except MEMORY_ERRORS as error:
            if context.ranks.world_size > 1:  # the other ranks wait for sums of equally many micro-batches
                raise
            state.micro_batch_slices = halve(
                min(state.micro_batch_slices, len(batch.images)), error, device=state.device, least=batch.clip_slices
            )
    losses = average_over_ranks(state, own_losses, context.ranks)
    with defer_signals():  # a signal in the middle of an update would leave some weights updated and others not
        has_loss = math.isfinite(losses["total"])
        is_good = has_loss and apply_gradients(state, context)
        state.bad_steps = 0 if is_good else state.bad_steps + 1
        state.step += 1
    if not is_good:
        # With float16 a gradient that is too large is expected: that is how the loss scale is found.
        is_expected = has_loss and state.scaler.is_enabled()
        level = logging.DEBUG if is_expected or not context.ranks.is_main else logging.WARNING
        what = "a gradient" if has_loss else "the loss"
        log.log(level, "step %d: %s is not finite; its batch is skipped.", state.step - 1, what)
    return losses if is_good else None


def accumulate_gradients(state: TrainState, batch: Batch, context: TrainingContext) -> dict[str, Tensor]:
    """Run the network forward and backward on one micro-batch after the other; their gradients add up to a mean."""
    loss_function, plan = context.make_loss(), context.plans.training
    for parameter in state.parameters:  # gradients keep their memory from step to step
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
    totals: dict[str, Tensor] = {}
    for micro_batch in batch.split(num_micro_batches(state, context)):
        weight = len(micro_batch.images) / len(batch.images)
        inputs = micro_batch.network_inputs()
        if "positions" in inputs:
            inputs["gradient_slices"] = plan.memory_gradient_slices
        with mixed_precision(state.device):
            output = state.network(micro_batch.images, micro_batch.organs, **inputs)
        losses = with_total(loss_function(output.float(), micro_batch.target()))
        state.scaler.scale(weight * losses["total"]).backward()
        for name, value in losses.items():
            totals[name] = totals.get(name, 0) + weight * value.detach()
    return totals


def num_micro_batches(state: TrainState, context: TrainingContext) -> int:
    """Return the number of micro-batches into which every rank splits its shard, so that each fits into memory."""
    largest_shard = math.ceil(state.slices_per_step / context.ranks.world_size)
    return math.ceil(largest_shard / min(state.micro_batch_slices, largest_shard))


def with_total(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the terms of a loss with their sum as "total", where the loss function gave none."""
    return {**losses, "total": losses["total"] if "total" in losses else torch.stack([*losses.values()]).sum()}


def average_over_ranks(state: TrainState, losses: Mapping[str, Tensor], ranks: Ranks) -> dict[str, float]:
    """Average gradients and losses over all ranks, in one exchange; all ranks get the same numbers."""
    values = torch.stack([value.float() for value in losses.values()])
    if ranks.world_size > 1:
        gradients = [parameter.grad for parameter in state.parameters if parameter.grad is not None]
        vector = ranks.all_reduce(torch.cat([values, *(gradient.flatten() for gradient in gradients)]))
        values, *means = (vector / ranks.world_size).split([len(values), *(one.numel() for one in gradients)])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
    return dict(zip(losses, values.tolist(), strict=True))


def apply_gradients(state: TrainState, context: TrainingContext) -> bool:
    """Update the weights and their average; return False, and update nothing, where a gradient is not finite."""
    plan = context.plans.training
    for optimizer in state.optimizers:
        state.scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.parameters, plan.gradient_clip_norm)
    is_finite = bool(torch.isfinite(norm))
    for optimizer in state.optimizers:
        if is_finite and isinstance(optimizer, Muon):
            optimizer.find_updates(context.ranks)  # exchanges values, so it comes before anything is changed
    state.is_whole = False
    if is_finite:
        for optimizer in state.optimizers:
            state.scaler.step(optimizer)
        update_average(state.averaged, state.network, decay=plan.ema_decay, step=state.step)
    state.scaler.update()  # to a smaller scale where something was not finite
    state.is_whole = True
    return is_finite


def seed_dropout(seed: int, *, step: int, rank: int) -> None:
    """Seed dropout by step and rank alone, so that a resumed run equals an undisturbed one."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))
