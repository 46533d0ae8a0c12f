"""Describes one training run: the values that all of its parts need and none of them changes.

Owns: `TrainingContext`, `Length`, `Callback`.
Does not own: what changes during a run (`state.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from autoseg.config.plans import Plans
from autoseg.distributed.ranks import ONE_RANK, Ranks
from autoseg.errors import UsageError
from autoseg.network.weights.model_file import BuildNetwork
from autoseg.preprocessing.store import CaseStore
from autoseg.training.checkpointing.init_from_model import StartingModel
from autoseg.training.loss.compound_loss import CompoundLoss, Loss
from autoseg.training.state import TrainState


class Callback:
    """Observes the training of a fold; override the methods that you need.

    Only rank 0 calls it. An exception that it raises ends the run, whose state is saved first.

    Example:
        >>> class PrintLoss(autoseg.Callback):
        ...     def on_step_end(self, step, losses):
        ...         print(step, losses["total"])
        >>> autoseg.train("my_run", callbacks=[PrintLoss()])
    """

    def on_step_end(self, step: int, losses: Mapping[str, float]) -> None:
        """Receive the named terms of the loss after a step, counted from 1."""

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """Receive an epoch's record in `metrics.jsonl`; "validation" contains Dice, where it was measured."""


@dataclass(frozen=True)
class Length:
    """The length of a run: in steps, or in seconds where they are given."""

    steps: int
    seconds: float | None = None

    def progress(self, state: TrainState) -> float:
        """Return the fraction of the run that is done, 0 to 1."""
        if self.seconds is not None:
            return min(1.0, state.seconds / self.seconds)
        return min(1.0, state.step / self.steps)


@dataclass(frozen=True)
class TrainingContext:
    """One fold's training.

    Attributes:
        plans: The plan of the run.
        folder: The fold's folder, to which its files are written.
        store: The preprocessed cases.
        training_cases: The cases to train on.
        validation_cases: The cases to validate on.
        seen_in_training: Whether the validation cases are trained on too, as with --fold all.
        length: How long the run is.
        device: The device that this rank trains on.
        ranks: The processes that share the work.
        loss: A function of the network's output and the target; None: `CompoundLoss` with the plan's weights.
        build_network: A function of the plan; None: autoseg's own network.
        callbacks: Objects that look on.
        cache_bytes: The memory that decompressed cases may take.
        offline: Whether weights come from the hub's cache alone.
        start: A finished model to begin a new run with, or None.
    """

    plans: Plans
    folder: Path
    store: CaseStore
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    seen_in_training: bool
    length: Length
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ranks: Ranks = ONE_RANK
    loss: Loss | None = None
    build_network: BuildNetwork | None = None
    callbacks: tuple[Callback, ...] = ()
    cache_bytes: int = 0
    offline: bool = False
    start: StartingModel | None = None

    def make_loss(self) -> Loss:
        """Return the user's loss, or the plan's."""
        return self.loss or CompoundLoss(self.plans.training.loss, ranks=self.ranks)


def shard_of_step(plans: Plans, *, slices_per_step: int, rank: int, world_size: int) -> slice:
    """Return the numbers of the slices of each step that one rank computes: an equal part, in whole clips.

    The slices of a step are numbered over all ranks, and each has random numbers of its own. So two ranks see what one
    would see with the doubled batch, and a run that continues with other ranks sees the same slices.

    Raises:
        UsageError: There are more ranks than slices, or clips.
    """
    length = plans.memory_clip_slices
    num_clips = slices_per_step // length
    if world_size > num_clips:
        what = "slices" if length == 1 else f"clips of {length} slices"
        raise UsageError(
            f"a step of this run has {num_clips} {what}, too few for {world_size} ranks. Start at most {num_clips}, or "
            "begin another run with a larger training.batch_slices."
        )
    bounds = [length * (num_clips * number // world_size) for number in (rank, rank + 1)]
    return slice(*bounds)
