"""Defines what the reference says of each pixel: which classes it may be.

Owns: `LabelSets` and `Target`, on the grid of the labels and on coarser ones.
Does not own: which sets a case's labels stand for (`training/data/sampler.py`), the terms (`compound_loss.py`).

A label stands for a set of classes: background where nobody annotated the spleen is background *or* spleen; "kidney" is
the left or the right one. Each term uses only what the set determines. Sources: Fidon et al. 2021, "Label-set loss
functions for partial supervision"; Shi et al. 2021, "Marginal loss and exclusion loss".

Legend: B slices, K requested organs, L labels, I items (the K organs, then the regions), R x W pixels. Classes are
background and the K organs, 1 + K of them.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.datasets.partial_labels import IGNORE

__all__ = ["IGNORE", "Items", "LabelSets", "Target", "make_target", "one_hot", "shrink"]


@dataclass(frozen=True)
class LabelSets:
    """The classes that the labels of a batch stand for.

    Attributes:
        classes: (B, L, 1 + K) True where a pixel of slice b with label l may be the class. A label that stands for all
            classes says nothing.
        regions: (G, 1 + K) True for the classes of each region, a union of organs whose overlap is trained as well.
    """

    classes: Tensor
    regions: Tensor

    def take(self, rows: slice) -> "LabelSets":
        """Return those of some slices."""
        return replace(self, classes=self.classes[rows])

    def to(self, device: torch.device) -> "LabelSets":
        """Move to a device."""
        return LabelSets(self.classes.to(device, non_blocking=True), self.regions.to(device, non_blocking=True))


@dataclass(frozen=True)
class Items:
    """The organs and regions whose Dice is measured.

    Attributes:
        classes: (I, 1 + K) ones for the classes of each item.
        is_in: (B, L, I) ones where a pixel with the label lies in the item.
        is_unknown: (B, L, I) ones where it may or may not.
        counts: (B, I) ones where the item was annotated in the slice's case: some label lies in it.
    """

    classes: Tensor
    is_in: Tensor
    is_unknown: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Target:
    """The reference on some grid.

    Attributes:
        shares: (B, L, R, W) fraction of each label in a pixel's known part: 0 or 1 on the labels' own grid.
        is_known: (B, 1, R, W) ones; zeros where the labels are ignored, or mostly.
        sets: (B, L, 1 + K) ones, see `LabelSets`; None where label l stands for class l alone.
        items: None together with `sets`: the items are then the organs, and all were annotated.
    """

    shares: Tensor
    is_known: Tensor
    sets: Tensor | None = None
    items: Items | None = None

    def shrink(self, size: torch.Size) -> "Target":
        """Average over the cells of a smaller grid."""
        shares, is_known = shrink(self.shares, self.is_known, size)
        return replace(self, shares=shares, is_known=is_known)

    def of_items(self) -> tuple[Tensor, Tensor]:
        """Return the (B, I, R, W) fraction of each item, and (B, I, R, W) or (B, 1, R, W) ones where it is known."""
        if self.items is None:
            return self.shares[:, 1:], self.is_known
        is_unknown = _per_pixel(self.items.is_unknown, self.shares) > 0.5
        return _per_pixel(self.items.is_in, self.shares), self.is_known * (~is_unknown)

    def of_organs(self) -> tuple[Tensor, Tensor]:
        """Return the same as `of_items`, for the K organs alone."""
        shares, is_known = self.of_items()
        if self.items is None:
            return shares, is_known
        num_organs = self.items.classes.shape[1] - 1
        return shares[:, :num_organs], is_known[:, :num_organs]

    def items_of(self, probs: Tensor) -> Tensor:
        """Return (B, I, R, W) probabilities of the items from (B, 1 + K, R, W) probabilities of the classes."""
        if self.items is None or len(self.items.classes) == probs.shape[1] - 1:  # no regions
            return probs[:, 1:]
        return torch.einsum("ic,bcrw->birw", self.items.classes, probs)

    def log_probs_of(self, logits: Tensor) -> Tensor:
        """Return (B, L, R, W) log-probabilities that a pixel is one of each label's classes."""
        log_probs = logits.log_softmax(dim=1)
        if self.sets is None:
            return log_probs
        sums = torch.einsum("blc,bcrw->blrw", self.sets, log_probs.exp())
        return sums.clamp(min=1e-30).log()  # a float32 holds less, but its logarithm has no gradient

    def counts(self, num_slices: int) -> Tensor:
        """Return (B, I) ones where an item was annotated in the slice's case."""
        if self.items is not None:
            return self.items.counts
        return self.shares.new_ones(num_slices, self.shares.shape[1] - 1)


def make_target(labels: Tensor, *, num_organs: int, sets: LabelSets | None = None) -> Target:
    """Turn (B, R, W) labels below L, or IGNORE, into a target.

    Without `sets`, label 0 is background, label k the k-th organ, and all organs were annotated.
    """
    if sets is None:
        return Target(*one_hot(labels, num_organs))
    items = _make_items(sets)
    shares, is_known = one_hot(labels, sets.classes.shape[1] - 1)
    return Target(shares, is_known, sets.classes.float(), items)


def one_hot(labels: Tensor, num_organs: int) -> tuple[Tensor, Tensor]:
    """Turn (B, R, W) labels into (B, 1 + K, R, W) zeros and ones, and (B, 1, R, W) ones where the label is known."""
    is_known = (labels != IGNORE).unsqueeze(1)
    values = torch.arange(1 + num_organs, device=labels.device).view(1, -1, 1, 1)
    return (labels.unsqueeze(1) == values).float(), is_known.float()


def shrink(target: Tensor, is_known: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Average both over the cells of a smaller grid; a target becomes its fraction of the cell's known pixels."""
    rows, columns = size
    known = F.adaptive_avg_pool2d(is_known, (rows, columns))
    shares = F.adaptive_avg_pool2d(target * is_known, (rows, columns)) / known.clamp(min=1e-6)
    return shares, (known > 0.5).float()


def _make_items(sets: LabelSets) -> Items:
    """Compare each label's set with each item: inside, outside, or undetermined."""
    num_classes = sets.classes.shape[-1]
    organs = torch.eye(num_classes, dtype=torch.bool, device=sets.classes.device)[1:]
    items = torch.cat([organs, sets.regions.bool()])  # (I, 1 + K)
    inside = (sets.classes.unsqueeze(2) & items).any(dim=-1)  # (B, L, I)
    outside = (sets.classes.unsqueeze(2) & ~items).any(dim=-1)
    is_in, is_unknown = inside & ~outside, inside & outside
    return Items(items.float(), is_in.float(), is_unknown.float(), is_in.any(dim=1).float())


def _per_pixel(of_label: Tensor, shares: Tensor) -> Tensor:
    """Spread (B, L, I) over the pixels, (B, L, R, W): (B, I, R, W)."""
    return torch.einsum("bli,blrw->birw", of_label, shares)
