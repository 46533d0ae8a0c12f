"""Gives all ranks the training state of rank 0.

Owns: `broadcast_state`.
Does not own: what a state consists of (`training/state.py`), files (`checkpoints.py`).
"""

import io
from pathlib import Path

import torch

from autoseg.config.plans import Plans
from autoseg.distributed.ranks import Ranks
from autoseg.training.state import TrainState, fill_state, pack_state


def broadcast_state(state: TrainState, plans: Plans, ranks: Ranks) -> None:
    """Fill the states of all ranks with that of rank 0, which alone reads and writes files."""
    if ranks.world_size == 1:
        return
    buffer = io.BytesIO()
    if ranks.is_main:
        torch.save(pack_state(state, plans), buffer)
    content = ranks.broadcast(buffer.getvalue())
    if not ranks.is_main:
        packed = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        fill_state(state, plans, packed, source=Path("the state of rank 0"))
