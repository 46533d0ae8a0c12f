"""Which slices of each training step a process has.

Owns: `StepShare`; the size of a step, which stays that of the run's beginning; how slices are cut into parts.
Does not own: what the slices are (`data/sampler.py`), how they are worked on (`core_processes.py`, `micro_batches.py`).

The slices of a step are numbered over all ranks, and each has random numbers of its own. So two ranks see what one with
the doubled batch would see, and a run that goes on with another number of ranks sees what it would have seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from autoseg.config.plans import Plans
from autoseg.errors import UsageError

Item = TypeVar("Item")


@dataclass(frozen=True)
class StepShare:
    """What one rank has of each step.

    Attributes:
        part: Numbers of its slices among those of the step.
        at_once: The most of them whose activations are kept, so that a larger share needs no more memory; None: all.
    """

    part: slice
    at_once: int | None = None

    @property
    def num_slices(self) -> int:
        """Slices in it."""
        return int(self.part.stop - self.part.start)


def slices_of_new_run(plans: Plans, *, num_ranks: int) -> int:
    """Return the slices of a step of a run that begins with so many ranks."""
    return plans.slices_per_step * plans.training.gradient_accumulation * num_ranks


def share_of(plans: Plans, *, slices_per_step: int, rank: int, num_ranks: int) -> StepShare:
    """Share the slices of a step out evenly, in whole clips.

    Args:
        plans: Of the run.
        slices_per_step: Of the run, over all ranks.
        rank: Whose share.
        num_ranks: That take part now.

    Raises:
        UsageError: There are more ranks than slices, or clips.
    """
    parts = cut_slices(slice(0, slices_per_step), num_ranks, memory_clip_slices=plans.memory_clip_slices)
    if len(parts) < num_ranks:
        what = "slices" if plans.memory_clip_slices == 1 else f"clips of {plans.memory_clip_slices} slices"
        raise UsageError(
            f"a step of this run has {len(parts)} {what}, too few for {num_ranks} ranks. Start at most {len(parts)}, "
            "or begin another run with more training.batch_slices."
        )
    part = parts[rank]
    return StepShare(part, None if part.stop - part.start <= plans.slices_per_step else plans.slices_per_step)


def cut_slices(part: slice, num_parts: int, *, memory_clip_slices: int = 1) -> list[slice]:
    """Cut numbers of slices evenly, in whole clips; there are fewer parts where there are fewer clips.

    Four parts of a step are two parts of each half of it: so two ranks of two cores cut as one rank of four does.

    Args:
        part: Of a multiple of `memory_clip_slices`.
        num_parts: The most.
        memory_clip_slices: What must stay together.
    """
    num_clips = (part.stop - part.start) // memory_clip_slices
    count = min(num_parts, num_clips)
    if count < 2:
        return [part]
    first = count // 2
    middle = part.start + memory_clip_slices * (num_clips * first // count)
    return [
        *cut_slices(slice(part.start, middle), first, memory_clip_slices=memory_clip_slices),
        *cut_slices(slice(middle, part.stop), count - first, memory_clip_slices=memory_clip_slices),
    ]


def add_in_pairs(items: Sequence[Item], add: Callable[[Item, Item], Item]) -> Item:
    """Add up one item a part in the order in which `cut_slices` cut: halves first, then the two together."""
    if len(items) == 1:
        return items[0]
    middle = len(items) // 2
    return add(add_in_pairs(items[:middle], add), add_in_pairs(items[middle:], add))
