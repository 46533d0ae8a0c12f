"""A batch in pieces, for a device whose memory is full: the same gradients, more time.

Owns: `Room`, how a batch is cut, and what is measured of its pieces; `Room.blocks` for the sake of bits.
Does not own: what is measured, gradients, and when to try again with less (`gradients.py`).

The loss is not a mean over slices: Dice sums over all of them. So the sums of all pieces are added up before the loss
is taken, and what the layers keep for the way back is not kept: it is computed anew, piece by piece, when the gradients
come to it (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Gradients are those of the whole batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.utils.checkpoint import checkpoint

from autoseg.training.data.sampler import Batch
from autoseg.training.loss.losses import Sums
from autoseg.training.step_share import add_in_pairs


@dataclass
class Room:
    """How a batch goes through the network.

    Attributes:
        slices: The most that the device's memory holds at once: known, or found by trying; None: whole batches fit.
        blocks: These slices go through it one after the other, all kept; none: the whole batch at once. It is what two
            cores or two ranks do side by side, so one core finds the same numbers, to the bit. Sums in another order
            would round in another way, and training makes much of little differences.
    """

    slices: int | None = None
    blocks: tuple[slice, ...] = ()

    def cut(self, batch: Batch) -> list[Batch]:
        """Cut a batch into its blocks; where memory is short there are smaller pieces instead."""
        is_short = self.slices is not None and self.slices < len(batch.images)
        if is_short or not self.blocks:
            return [batch]
        return [_take(batch, block.start, block.stop, length=clip_length(batch)) for block in self.blocks]


def clip_length(batch: Batch) -> int:
    """Return how many slices must stay together: those of a clip look at each other through the memory."""
    return 1 if batch.positions is None else batch.positions.shape[1]


def cut_into_pieces(batch: Batch, num_slices: int) -> list[Batch]:
    """Cut a batch into pieces of whole clips, each of at most `num_slices` slices or else one clip."""
    length = clip_length(batch)
    clips = max(1, num_slices // length)
    starts = range(0, len(batch.images), clips * length)
    return [_take(batch, start, min(start + clips * length, len(batch.images)), length=length) for start in starts]


def measure_in_pieces(measure: Callable[[Batch], Sums], batch: Batch, num_slices: int | None) -> Sums:
    """Measure a batch, keeping the activations of one piece at a time.

    Args:
        measure: Runs the network over any number of whole clips, and gives sums over their slices.
        batch: On the device.
        num_slices: The most at once; None: all, and nothing is computed twice.

    Returns:
        The sums over the whole batch.
    """
    pieces = [batch] if num_slices is None else cut_into_pieces(batch, num_slices)
    if len(pieces) == 1:
        return measure(batch)
    # It also brings back the random numbers of dropout for the second time.
    parts: list[Sums] = [checkpoint(measure, piece, use_reentrant=False) for piece in pieces]
    return {name: add_in_pairs([part[name] for part in parts], torch.add) for name in parts[0]}


def _take(batch: Batch, start: int, stop: int, *, length: int) -> Batch:
    rows, clips = slice(start, stop), slice(start // length, stop // length)
    clicks = None if batch.clicks is None else batch.clicks.take(rows)
    positions = None if batch.positions is None else batch.positions[clips]
    return replace(
        batch,
        images=batch.images[rows],
        labels=batch.labels[rows],
        case_ids=batch.case_ids[rows],
        positions=positions,
        clicks=clicks,
        sets=None if batch.sets is None else batch.sets.take(rows),
        changes=None if batch.changes is None else replace(batch.changes, clips=batch.changes.clips[clips]),
    )
