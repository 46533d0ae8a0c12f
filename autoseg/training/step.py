"""One training step: gradients of a batch, and the weights moved by them.

Owns: `train_step`, and what is moved as one.
Does not own: gradients (`gradients.py`), who else works on a step (`core_processes.py`, `distributed/collectives.py`),
what follows when steps go wrong (`trainer.py`).
"""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from autoseg.config.plans import Plans
from autoseg.distributed.collectives import ALONE, Sharing
from autoseg.system.signals import defer_signals
from autoseg.training.core_processes import GradientProcesses
from autoseg.training.data.sampler import Batch
from autoseg.training.gradients import AddUp, add_parts, find_gradients_in_room, seed_dropout
from autoseg.training.state import TrainState, update_average

log = logging.getLogger("autoseg")


class StepSums:
    """The sums of one step, added up once over all who hold a part of its batch, however often they are asked for."""

    def __init__(self, add_up: AddUp) -> None:
        """Take what adds a part's own sums to those of the others."""
        self._add_up = add_up
        self._total: Tensor | None = None

    def total(self, own: Tensor) -> Tensor:
        """Return the total; a part that is measured again, for its memory was full, has the same sums as before."""
        if self._total is None:
            self._total = self._add_up(own)
        return self._total


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    plans: Plans,
    processes: GradientProcesses | None = None,
    sharing: Sharing = ALONE,
) -> dict[str, float] | None:
    """Move the weights by one batch, and count the step, also one in which nothing moves.

    Args:
        state: Is moved.
        batch: The batch, or the part of it that the others leave.
        plans: Of the run.
        processes: Those that find the gradients of other parts; they know which part this one is.
        sharing: The ranks, which have parts of their own and move like weights alike.

    Returns:
        The loss terms of the whole batch; None where the loss or a gradient was not finite and nothing moved.

    Raises:
        TrainingError: The device's memory is full even with one slice at a time.
    """
    scaler = state.scaler if state.scaler.is_enabled() else None

    def add_up(own: Tensor) -> Tensor:
        total = sharing.add_up(own if processes is None else processes.add_sums(own, state))
        if processes is not None:
            processes.tell(total)
        return total

    sums = StepSums(add_up)
    if processes is not None:
        processes.start_step()
    seed_dropout(plans.training.seed, step=state.step, first_slice=0 if processes is None else processes.part.start)
    parts = [
        find_gradients_in_room(
            state.network,
            state.parameters,
            batch,
            plan=plans.training,
            scaler=scaler,
            room=state.room,
            add_up=sums.total,
        )
    ]
    if processes is not None:
        parts += processes.finish_step(state)
    whole = add_parts(parts)
    losses, gradients = dict(whole.losses), sharing.add_gradients(whole.gradients)
    with defer_signals():  # a step cut in two would leave some weights moved, and a run that goes on would be another
        has_loss = math.isfinite(losses["total"])
        is_good = has_loss and _move(state, gradients, plans=plans)
        state.bad_steps = 0 if is_good else state.bad_steps + 1
        state.step += 1
    if not is_good:
        # With float16 a gradient that is too large is no accident: it is how the scale of the loss is found.
        level = logging.DEBUG if (has_loss and scaler is not None) or not sharing.leads else logging.WARNING
        what = "a gradient" if has_loss else "the loss"
        log.log(level, "step %d: %s is not finite; its batch is skipped.", state.step - 1, what)
    return losses if is_good else None


def _move(state: TrainState, gradients: Sequence[Tensor], *, plans: Plans) -> bool:
    """Move weights and average by the gradients; False where they are not finite, and then nothing moves."""
    for parameter, gradient in zip(state.parameters, gradients, strict=True):
        parameter.grad = gradient
    for optimizer in state.optimizers:
        state.scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.parameters, plans.training.gradient_clip_norm)
    is_finite = bool(torch.isfinite(norm))
    state.is_whole = False
    if is_finite:
        for optimizer in state.optimizers:
            state.scaler.step(optimizer)
        update_average(state.averaged, state.network, decay=plans.training.ema_decay, step=state.step)
    state.scaler.update()  # to a smaller scale where something was not finite
    for parameter in state.parameters:
        parameter.grad = None
    state.is_whole = True
    return is_finite
