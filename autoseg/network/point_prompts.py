"""Encodes points and boxes as tokens for SAM's decoder and as a picture.

Owns: `PointPrompts`, and `PointPromptEncoder` around SAM 2's prompt encoder.
Does not own: where points come from (`data/simulated_prompts.py`, `inference/organ_prompts.py`).

A network trained from scratch does not learn in hundreds of steps what a token of a place means, so the points are
also drawn: a bump for each point, a filled box. Source: SEG-SAM, visual prompts beside text; SAM 2, section 4.

Legend: B slices, K organs, P points per organ, D channels, h x w the stride-16 grid, h4 x w4 at stride 4,
r x c the window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.network.sam2_modules import PromptEncoder

CELL_PX = 4  # of the square, a cell of the grid at stride 4
BUMP_CELLS = 1.0  # deviation of a point's bump
NUM_POINTS = 5  # an organ's, at least: the corners of a box and three points; those that are not set are NOTHING
NOTHING, OUTSIDE, INSIDE, BOX_FIRST, BOX_LAST = -1, 0, 1, 2, 3  # SAM's own numbers


@dataclass(frozen=True)
class PointPrompts:
    """The points and boxes in each slice, for each organ.

    Attributes:
        places: (B, K, P, 2) row and column in pixels of the window; 0 is the middle of the first pixel.
        kinds: (B, K, P) INSIDE or OUTSIDE the organ, BOX_FIRST and BOX_LAST corner, or NOTHING.
    """

    places: Tensor
    kinds: Tensor

    def take(self, slices: slice | Tensor) -> "PointPrompts":
        """Return those of some slices."""
        return PointPrompts(self.places[slices], self.kinds[slices])

    def to(self, device: torch.device) -> "PointPrompts":
        """Return them on a device."""
        return PointPrompts(self.places.to(device, non_blocking=True), self.kinds.to(device, non_blocking=True))

    def flip(self, axes: Sequence[int], *, window: tuple[int, int]) -> "PointPrompts":
        """Mirror them as `Tensor.flip` mirrors (B, C, r, c) images: axis 2 are the rows, 3 the columns."""
        places = self.places.clone()
        for axis in axes:
            places[..., axis - 2] = window[axis - 2] - 1 - places[..., axis - 2]
        first, last = self.kinds == BOX_FIRST, self.kinds == BOX_LAST
        corners = places[first], places[last]
        places[first], places[last] = torch.minimum(*corners), torch.maximum(*corners)  # the smaller stays the first
        return PointPrompts(places, self.kinds)


def no_point_prompts(num_slices: int, num_organs: int, num_points: int = NUM_POINTS) -> PointPrompts:
    """Return (B, K, P) points that are all NOTHING."""
    kinds = torch.full((num_slices, num_organs, num_points), NOTHING)
    return PointPrompts(torch.zeros(*kinds.shape, 2), kinds)


@dataclass(frozen=True)
class EncodedPrompts:
    """The encoded points of B slices and K organs.

    Attributes:
        tokens: (B, K, P + 1, D) for SAM's decoder; the last is SAM's padding, which is no point.
        picture: (B, K, 2, h4, w4): points, 1 in the organ and -1 beside it, and boxes, 1 inside.
        dense: (B, K, D, h, w), the picture as a dense prompt.
    """

    tokens: Tensor
    picture: Tensor
    dense: Tensor

    def take(self, slices: Tensor) -> "EncodedPrompts":
        """Return those of some slices."""
        return EncodedPrompts(self.tokens[slices], self.picture[slices], self.dense[slices])


class PointPromptEncoder(nn.Module):
    """Applies SAM 2's prompt encoder to all organs of all slices, and draws the picture."""

    def __init__(self, encoder: PromptEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.dense = nn.Linear(2, encoder.embed_dim, bias=False)
        nn.init.zeros_(self.dense.weight)  # at first the dense prompt is what SAM's would be

    def forward(self, point_prompts: PointPrompts, *, window: tuple[int, int]) -> EncodedPrompts:
        """Encode points in pixels of the window, (r, c), of which the image encoder sees a square."""
        rows, columns = self.encoder.input_image_size
        scale = torch.tensor([rows / window[0], columns / window[1]], device=point_prompts.places.device)
        middles = (point_prompts.places + 0.5) * scale  # in pixels of the square, from its corner
        # SAM takes (x, y), and adds half a pixel of its own image to reach a pixel's middle
        points = (middles - 0.5).flip(-1).flatten(0, 1)  # (B * K, P, 2)
        tokens, _ = self.encoder(points=(points, point_prompts.kinds.flatten(0, 1)), boxes=None, masks=None)
        picture = paint_point_prompts(
            PointPrompts(middles / CELL_PX, point_prompts.kinds), grid=(rows // CELL_PX, columns // CELL_PX)
        )
        small = F.adaptive_max_pool2d(picture.flatten(0, 1), self.encoder.image_embedding_size)  # (B * K, 2, h, w)
        dense = self.dense(small.movedim(1, -1)).movedim(-1, 1)
        shape = point_prompts.kinds.shape[:2]
        return EncodedPrompts(tokens.unflatten(0, shape), picture, dense.unflatten(0, shape))

    @property
    def no_mask(self) -> Tensor:
        """(D, 1, 1), SAM's dense prompt where no mask is given, which is always the case here."""
        return self.encoder.no_mask_embed.weight.view(-1, 1, 1)


def paint_point_prompts(point_prompts: PointPrompts, *, grid: tuple[int, int]) -> Tensor:
    """Draw points as (B, K, 2, h4, w4): bumps of the points, 1 or -1 high, and filled boxes.

    The places are in cells of the (h4, w4) grid, 0 being the edge of the first one.
    """
    places, kinds = point_prompts.places, point_prompts.kinds
    middles = [torch.arange(size, device=places.device) + 0.5 for size in grid]
    away = [(m - places[..., axis, None]) / BUMP_CELLS for axis, m in enumerate(middles)]  # (B, K, P, h4 or w4)
    bumps = [torch.exp(-0.5 * distance**2) for distance in away]
    sign = (kinds == INSIDE).float() - (kinds == OUTSIDE).float()  # (B, K, P)
    points = torch.einsum("bkp,bkph,bkpw->bkhw", sign, *bumps).clamp(-1, 1)
    first, last = ((kinds == kind).float() for kind in (BOX_FIRST, BOX_LAST))
    inside = []
    for axis, m in enumerate(middles):
        low, high = ((which * places[..., axis]).sum(dim=2, keepdim=True) for which in (first, last))  # (B, K, 1)
        inside.append((m + 0.5 > low) & (m - 0.5 < high))  # cells that the box touches
    box = inside[0].unsqueeze(3) & inside[1].unsqueeze(2) & first.any(dim=2)[..., None, None]  # (B, K, h4, w4)
    return torch.stack([points, box.float()], dim=2)
