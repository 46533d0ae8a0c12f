"""Holds the input of one training step: `Batch`.

Owns: its tensors, their move to a device, and its division into micro-batches.
Does not own: how a batch is made (`sampler.py`).

Legend: B slices in V clips of T, N neighboring slices, C channels, K requested organs, R x W the window.
"""

import itertools
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from autoseg.network.point_prompts import PointPrompts
from autoseg.training.data.augmentation_draws import Changes
from autoseg.training.loss.targets import LabelSets, Target, make_target


@dataclass(frozen=True)
class Batch:
    """The input of one training step, or of one rank's shard of it.

    Attributes:
        images: (B, C * N, R, W) float32.
        labels: (B, R, W) int64: positions in `sets`, or without them 0 and position among `organs` plus 1; or IGNORE.
        organs: (K,) rows of the network's text: positions in the plan, beyond its organs for further modalities.
        case_ids: The case of each slice.
        positions: (V, T) numbers of the slices in their cases, in the order of a clip; the clips lie one after the
            other in `images`. None without a memory; (B, 1) where each slice is the first that is visited.
        point_prompts: Points and boxes on some of the organs, where the network takes them; else None.
        sets: What the labels stand for, where not every one is an organ that was annotated in all slices' cases.
        changes: Augmentation that is still to be applied on the device, where the plan says so.
    """

    images: Tensor
    labels: Tensor
    organs: Tensor
    case_ids: tuple[str, ...]
    positions: Tensor | None = None
    point_prompts: PointPrompts | None = None
    sets: LabelSets | None = None
    changes: Changes | None = None

    @property
    def clip_slices(self) -> int:
        """The slices that must stay together: those of a clip attend to each other through the memory."""
        return 1 if self.positions is None else self.positions.shape[1]

    def to(self, device: torch.device) -> "Batch":
        """Move the tensors to a device; from pinned memory this overlaps with other work."""
        moved: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Tensor):
                moved[one.name] = value.to(device, non_blocking=True)
            elif isinstance(value, PointPrompts | LabelSets):
                moved[one.name] = value.to(device)
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """Move images and labels to memory that a GPU reads by itself; torch's DataLoader calls this."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())

    def split(self, count: int) -> list["Batch"]:
        """Split into `count` micro-batches of whole clips, of equal sizes as far as possible."""
        length = self.clip_slices
        num_clips = len(self.images) // length
        count = max(1, min(count, num_clips))
        bounds = [num_clips * number // count for number in range(count + 1)]
        return [self._take(start, stop, length) for start, stop in itertools.pairwise(bounds)]

    def target(self) -> Target:
        """Return what the labels say about each pixel."""
        return make_target(self.labels, num_organs=len(self.organs), sets=self.sets)

    def network_inputs(self) -> dict[str, Any]:
        """Return the optional inputs of the network that this batch has."""
        inputs = {"point_prompts": self.point_prompts, "positions": self.positions}
        return {name: value for name, value in inputs.items() if value is not None}

    def _take(self, first_clip: int, last_clip: int, length: int) -> "Batch":
        rows, clips = slice(first_clip * length, last_clip * length), slice(first_clip, last_clip)
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            case_ids=self.case_ids[rows],
            positions=None if self.positions is None else self.positions[clips],
            point_prompts=None if self.point_prompts is None else self.point_prompts.take(rows),
            sets=None if self.sets is None else self.sets.take(rows),
            changes=None if self.changes is None else replace(self.changes, clips=self.changes.clips[clips]),
        )
