"""One training state on all ranks: spread from the first one, and compared on the way.

Owns: `spread_state`, `keep_alike`.
Does not own: what a state is (`state.py`), how bytes reach the others (`collectives.py`).
"""

import io
import logging
from pathlib import Path

import torch

from autoseg.config.plans import Plans
from autoseg.distributed.collectives import Sharing
from autoseg.training.state import TrainState, fill_state, pack_state

log = logging.getLogger("autoseg")


def spread_state(state: TrainState, plans: Plans, sharing: Sharing) -> None:
    """Fill the states of all ranks with that of the first one.

    Args:
        state: Of the same plan.
        plans: Of the run.
        sharing: The ranks.
    """
    if sharing.ranks.size == 1:
        return
    buffer = io.BytesIO()
    if sharing.leads:
        torch.save(pack_state(state, plans), buffer)
    content = sharing.spread(buffer.getvalue())
    if not sharing.leads:
        packed = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        fill_state(state, plans, packed, source=Path("the first rank's state"))


def keep_alike(state: TrainState, plans: Plans, sharing: Sharing) -> None:
    """Compare the weights of all ranks, which moved alike; where they did not, all take those of the first one.

    Unlike GPUs or unlike versions of a library may round in other ways.
    """
    if sharing.are_alike(checksum(state)):
        return
    if sharing.leads:
        log.warning(
            "step %d: the ranks' weights are not the same any more, as with unlike GPUs; all go on with those of the "
            "first rank.",
            state.step,
        )
    spread_state(state, plans, sharing)


@torch.no_grad()
def checksum(state: TrainState) -> int:
    """Return a number of at most 62 bits that follows from every bit of the weights."""
    sums = [weight.detach().contiguous().view(torch.int32).sum(dtype=torch.int64) for weight in state.parameters]
    total = 0
    for number, value in enumerate(torch.stack(sums).tolist()):
        total = (total + (2 * number + 1) * value) % (1 << 61)
    return total
