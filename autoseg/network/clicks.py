"""Clicks and boxes beside the text: what a user points at, as tokens for SAM's decoder.

Owns: `Clicks`, and `ClickEncoder` around SAM 2's prompt encoder.
Does not own: where clicks come from (`training/click_drawing.py`, `inference/clicks.py`).

Source: SEG-SAM, visual prompts beside text; SAM 2, section 4, prompt encoder.

Legend: B slices, K organs, P clicks an organ, D channels, h x w the stride-16 grid, r x w the window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.network.sam2_parts import PromptEncoder

NOTHING, OUTSIDE, INSIDE, BOX_FIRST, BOX_LAST = -1, 0, 1, 2, 3  # SAM's own numbers


@dataclass(frozen=True)
class Clicks:
    """What is pointed at in each slice.

    Attributes:
        places: (B, K, P, 2) row and column in pixels of the window; 0 is the middle of the first pixel.
        kinds: (B, K, P) INSIDE or OUTSIDE the organ, BOX_FIRST and BOX_LAST corner, or NOTHING.
    """

    places: Tensor
    kinds: Tensor

    def take(self, slices: slice | Tensor) -> "Clicks":
        """Return those of some slices."""
        return Clicks(self.places[slices], self.kinds[slices])

    def to(self, device: torch.device) -> "Clicks":
        """Return them on a device."""
        return Clicks(self.places.to(device, non_blocking=True), self.kinds.to(device, non_blocking=True))

    def flip(self, axes: Sequence[int], *, window: tuple[int, int]) -> "Clicks":
        """Mirror them as `Tensor.flip` mirrors (B, C, r, w) images: axis 2 are the rows, 3 the columns."""
        places, kinds = self.places.clone(), self.kinds
        for axis in axes:
            places[..., axis - 2] = window[axis - 2] - 1 - places[..., axis - 2]
        first, last = kinds == BOX_FIRST, kinds == BOX_LAST
        if axes and first.any():  # the corner with the smaller numbers stays the first
            places = _swap_corners(places, first, last, axes=axes)
        return Clicks(places, kinds)


def _swap_corners(places: Tensor, first: Tensor, last: Tensor, *, axes: Sequence[int]) -> Tensor:
    result = places.clone()
    for axis in axes:
        result[..., axis - 2][first], result[..., axis - 2][last] = (
            places[..., axis - 2][last],
            places[..., axis - 2][first],
        )
    return result


class ClickEncoder(nn.Module):
    """SAM 2's prompt encoder over all organs of all slices."""

    def __init__(self, encoder: PromptEncoder) -> None:
        """Take the built encoder."""
        super().__init__()
        self.encoder = encoder

    def forward(self, clicks: Clicks, *, window: tuple[int, int]) -> Tensor:
        """Return (B, K, P + 1, D) tokens; the last is SAM's padding, a click that is none.

        Args:
            clicks: In pixels of the window.
            window: (r, w), of which the image encoder sees a square.
        """
        rows, columns = self.encoder.input_image_size
        scale = torch.tensor([rows / window[0], columns / window[1]], device=clicks.places.device)
        # SAM takes (x, y), and adds half a pixel of its own image to reach a pixel's middle
        points = ((clicks.places + 0.5) * scale - 0.5).flip(-1).flatten(0, 1)  # (B * K, P, 2)
        tokens, _ = self.encoder(points=(points, clicks.kinds.flatten(0, 1)), boxes=None, masks=None)
        return tokens.unflatten(0, clicks.kinds.shape[:2])

    @property
    def no_mask(self) -> Tensor:
        """(D, 1, 1), what SAM's decoder is told where no mask is given as a prompt: always here."""
        return self.encoder.no_mask_embed.weight.view(-1, 1, 1)
