"""Draws the cases, slices and requested organs of a step before any voxel is read.

Owns: `StepDraws`.
Does not own: which cases may be in one step (`groups.py`), what is cut from the slices (`sampler.py`).

The slices of a step are numbered over all ranks, and each has random numbers of its own; the group of cases and the
organs depend on the step alone. So every rank can make its part, and the parts are what one rank would have made.

Legend: T slices of a clip, K organs of the plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.config.plans import Plans
from autoseg.datasets.partial_labels import region_table
from autoseg.training.data.groups import CaseGroup

FOR_ORGANS = 2  # last of the numbers that seed a draw; 1 is for points


@dataclass(frozen=True)
class StepDraws:
    """The draws of all steps of a run.

    Attributes:
        groups: The groups of cases to draw from.
        num_slices: The number of slices of each case.
        slices_per_step: The number of slices of a step over all ranks; a multiple of the plan's clips.
        plans: The plan with seed, clips and organs.
    """

    groups: Sequence[CaseGroup]
    num_slices: Mapping[str, int]
    slices_per_step: int
    plans: Plans

    def numbers(self, step: int, part: slice | None = None) -> range:
        """Return the numbers of a step's slices, or of its clips' first slices, perhaps of a part of whole clips."""
        return range(self.slices_per_step)[part or slice(None)][:: self.plans.clip_slices_of(step)]

    def group_of(self, step: int) -> CaseGroup:
        """Draw the cases of a step."""
        if len(self.groups) == 1:
            return self.groups[0]
        shares = [group.share for group in self.groups]
        return self.groups[np.random.default_rng([self.plans.training.seed, step]).choice(len(shares), p=shares)]

    def place(self, step: int, number: int, *, group: CaseGroup) -> tuple[str, np.ndarray, np.random.Generator]:
        """Draw the case of a clip and the (T,) numbers of its slices; return them with the clip's generator."""
        rng = np.random.default_rng([self.plans.training.seed, step, number])
        case_id, position = self._slice(group, rng)
        return case_id, self._clip(case_id, position, memory_clip_slices=self.plans.clip_slices_of(step), rng=rng), rng

    def cases_of(self, step: int) -> list[str]:
        """Return the case of each clip of a step."""
        group = self.group_of(step)
        return [self.place(step, number, group=group)[0] for number in self.numbers(step)]

    def organs_of(self, step: int) -> np.ndarray:
        """Draw the organs of a step, ascending: all, or, where the plan allows fewer, those in its slices first."""
        num_organs, limit = len(self.plans.data.organs), self.plans.training.organs_per_step
        if num_organs <= limit:
            return np.arange(num_organs)
        rng = np.random.default_rng([self.plans.training.seed, step, 0, FOR_ORGANS])
        first = list(rng.permutation(self._organs_in_slices(step)))[:limit]
        absent = list(rng.permutation(np.setdiff1d(np.arange(num_organs), first)))[: limit - len(first)]
        return np.sort(np.array(first + absent, dtype=np.int64))

    def _organs_in_slices(self, step: int) -> np.ndarray:
        """Return the positions of all organs in the slices of a step, including those of an annotated region."""
        group = self.group_of(step)
        found: set[int] = set()
        for number in self.numbers(step):
            case_id, clip, _ = self.place(step, number, group=group)
            found |= group.indices_in(case_id, clip)
        num_organs = len(self.plans.data.organs)
        regions = np.array([index - num_organs - 1 for index in found if index > num_organs], dtype=np.int64)
        in_regions = np.flatnonzero(region_table(self.plans.data)[regions].any(axis=0)) - 1
        return np.union1d(np.array([index - 1 for index in found if index <= num_organs], np.int64), in_regions)

    def _slice(self, group: CaseGroup, rng: np.random.Generator) -> tuple[str, int]:
        """Draw any slice, or, as often as the plan says, one that holds an organ."""
        if group.cases_of_organ and rng.random() < self.plans.training.foreground_oversampling:
            return group.draw_organ_slice(rng)
        case_id = group.case_ids[rng.integers(len(group.case_ids))]
        return case_id, int(rng.integers(self.num_slices[case_id]))

    def _clip(self, case_id: str, position: int, *, memory_clip_slices: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the slices of a clip around a position, evenly apart, in either direction; the ends of a case repeat."""
        if memory_clip_slices == 1:
            return np.array([position])
        step = int(rng.integers(1, self.plans.training.memory_clip_stride + 1)) * int(rng.choice([-1, 1]))
        place = int(rng.integers(memory_clip_slices))  # of the position in the clip
        return np.clip(position + step * (np.arange(memory_clip_slices) - place), 0, self.num_slices[case_id] - 1)
