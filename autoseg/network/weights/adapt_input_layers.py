"""Adapts the layers that read a slice's channels to other channels and neighbors than they were trained with.

Owns: where each channel of each neighbor lies in the stem, in the patch embedding behind it and in the refiner.
Does not own: the matching of channels (`checkpointing/init_from_model.py`), all other layers (`transfer.py`).

A new channel is read with weights of zero, so at first the network's output does not depend on it. A channel that is
gone is treated as zero, its mean, everywhere.

Legend: N neighbors, C channels of a slice, n * C + c the place of a channel, s the refiner's stride.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SLICES_TO_STEM = 3  # the slice and one on each side


@dataclass(frozen=True)
class Channels:
    """The channels and neighbors of a new plan and of a finished model.

    Attributes:
        sources: The number in the model of each channel of the new plan, or None.
        num_there: The number of channels of the model.
        reach_here: The number of neighbors on each side that the new refiner sees.
        reach_there: The number that the model's refiner saw.
    """

    sources: Sequence[int | None]
    num_there: int
    reach_here: int
    reach_there: int

    @property
    def is_same(self) -> bool:
        """Whether every channel is where it was."""
        return list(self.sources) == list(range(self.num_there))


def fit_stem(channels: Channels, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the stem's (3, 3 * C, 1, 1) weight and (3) bias for the new channels; a model may have had none (None)."""
    matrix, offset = _as_matrix(weight, bias)
    return _place(matrix, channels, reach_here=1, reach_there=1)[..., None, None], offset


def fold_stem(
    channels: Channels, *, patches: Tensor, patch_bias: Tensor, stem: Tensor | None, stem_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Fold the stem into a patch embedding for the one channel that is left, and return weight and bias.

    At the border, where the embedding pads with zeros, it differs by what the stem's offset added there.

    Args:
        channels: The channels, of which the new plan has one.
        patches: (O, 3, h, w) weight of the model.
        patch_bias: (O) bias of the model.
        stem: (3, 3 * C, 1, 1), or None where the model had none.
        stem_bias: (3).
    """
    matrix, offset = _as_matrix(stem, stem_bias)
    matrix = _place(matrix, channels, reach_here=1, reach_there=1)  # (3, 3)
    return torch.einsum("ojhw,ji->oihw", patches, matrix), patch_bias + torch.einsum("ojhw,j->o", patches, offset)


def fit_refiner_input(channels: Channels, kernels: Tensor, *, stride: int) -> Tensor:
    """Return the refiner's first kernels, (O, N * C * s * s, h, w), for the new channels and neighbors."""
    cells = kernels.unflatten(1, (-1, stride**2)).movedim(1, -1)  # (O, s * s, h, w, N * C)
    placed = _place(cells, channels, reach_here=channels.reach_here, reach_there=channels.reach_there)
    return placed.movedim(-1, 1).flatten(1, 2)


def _as_matrix(weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a stem as (3, 3 * C) and (3); none leaves its three slices as they are."""
    if weight is None or bias is None:
        return torch.eye(SLICES_TO_STEM), torch.zeros(SLICES_TO_STEM)
    return weight[..., 0, 0], bias


def _place(there: Tensor, channels: Channels, *, reach_here: int, reach_there: int) -> Tensor:
    """Put the last axis, of N * C, into the new order; what is not there is zero."""
    old = there.unflatten(-1, (2 * reach_there + 1, channels.num_there))  # (.., N, C)
    new = old.new_zeros(*old.shape[:-2], 2 * reach_here + 1, len(channels.sources))
    reach = min(reach_here, reach_there)
    old = old[..., reach_there - reach : reach_there + reach + 1, :]
    for number, source in enumerate(channels.sources):
        if source is not None:
            new[..., reach_here - reach : reach_here + reach + 1, number] = old[..., source]
    return new.flatten(-2)
