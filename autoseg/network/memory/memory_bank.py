"""Holds the memory of a volume's other slices as an explicit value, never as the state of a module.

Owns: which slices are kept (`remember`), and which of them a slice attends to (`recall`).
Does not own: how a slice becomes a memory and how memories change features (`slice_memory.py`).

Source: CRISP-SAM2, similarity-sorting self-updating memory: the bank is sorted by similarity to the current slice, and
a new slice replaces the least useful one. SAM 2's first-in first-out bank can be selected instead.

Legend: B volumes, N entries of the bank, K organs, M memory channels, D channels, h x w the stride-16 grid.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MemoryUpdate = Literal["similarity", "fifo"]


@dataclass(frozen=True)
class MemoryBank:
    """The entries of B volumes, the oldest first; all fields begin with the axes B and N.

    Attributes:
        features: (B, N, M, h, w) of the memory encoder.
        pointers: (B, N, K, D), SAM 2's object pointers.
        keys: (B, N, D) mean features of the slice, of length 1.
        quality: (B, N) predicted IoU, mean over the organs, 0 to 1.
        positions: (B, N) number of the slice in its volume, int64.
    """

    features: Tensor
    pointers: Tensor
    keys: Tensor
    quality: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return self.keys.shape[1]

    def take(self, entries: Tensor) -> "MemoryBank":
        """Return the entries at (B, n) indices, in that order."""
        rows = torch.arange(len(entries), device=entries.device).unsqueeze(1)
        return MemoryBank(**{name: value[rows, entries] for name, value in vars(self).items()})

    def detach_all_but(self, num_newest: int) -> "MemoryBank":
        """Return the same values; gradients flow through the newest entries only."""
        old = max(0, len(self) - num_newest)
        if old == 0:
            return self
        if num_newest == 0:
            return MemoryBank(**{name: value.detach() for name, value in vars(self).items()})
        return MemoryBank(**{name: torch.cat([v[:, :old].detach(), v[:, old:]], 1) for name, v in vars(self).items()})

    def num_bytes(self) -> int:
        """Return the memory that the entries take."""
        return sum(value.numel() * value.element_size() for value in vars(self).values())


def make_key(features: Tensor) -> Tensor:
    """Return the (B, D) mean features of (B, D, h, w) slices, of length 1, by which slices are compared."""
    return F.normalize(features.mean(dim=(2, 3)), dim=1)


def recall(bank: MemoryBank, key: Tensor, *, count: int) -> MemoryBank:
    """Return the entries most similar to the (B, D) keys of the current slices, at most `count`, most similar first."""
    similarity = (bank.keys @ key.unsqueeze(2)).squeeze(2)  # (B, N) cosines
    order = similarity.argsort(dim=1, descending=True, stable=True)
    return bank.take(order[:, :count])


def remember(
    bank: MemoryBank | None, new: MemoryBank, *, capacity: int, update: MemoryUpdate = "similarity"
) -> MemoryBank:
    """Return the bank with one more slice; a full bank drops one entry of each volume.

    By "similarity" it drops the least useful entry. An entry is worth its quality times its distance (1 - cosine) from
    the entry most similar to it, so poor masks and duplicates go first, perhaps the new slice itself. By "fifo" it
    drops the oldest.

    Args:
        bank: The bank so far; None at the beginning of a volume.
        new: One entry per volume, (B, 1, ..).
        capacity: The largest number of entries, at least 1.
        update: How a full bank makes room.
    """
    if bank is None:
        return new
    joined = MemoryBank(**{name: torch.cat([value, vars(new)[name]], dim=1) for name, value in vars(bank).items()})
    if len(joined) <= capacity:
        return joined
    dropped = _least_useful(joined) if update == "similarity" else torch.zeros_like(joined.positions[:, 0])  # (B,)
    numbers = torch.arange(len(joined) - 1, device=dropped.device)
    kept = numbers + (numbers >= dropped.unsqueeze(1))  # (B, N), all but the dropped
    return joined.take(kept)


def capacity_within(entry: MemoryBank, *, num_slices: int, num_bytes: int) -> int:
    """Return how many entries like this (B, 1, ..) one fit into `num_bytes` per volume: 1 to `num_slices`."""
    each = entry.num_bytes() / entry.keys.shape[0]
    return max(1, min(num_slices, int(num_bytes // each)))


def _least_useful(bank: MemoryBank) -> Tensor:
    """Return the entry of each volume that is worth least; of equal ones the older."""
    similarity = bank.keys @ bank.keys.transpose(1, 2)  # (B, N, N)
    others = similarity - 2 * torch.eye(len(bank), device=similarity.device, dtype=similarity.dtype)
    novelty = (1 - others.amax(dim=2)).clamp(min=0)
    return (bank.quality * novelty).argmin(dim=1)
