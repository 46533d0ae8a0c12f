"""Segments all organs at once: they compete for each pixel, independently of SAM's decoder.

Owns: segmentation-oriented tokens (one per organ, and one for background), which give a multi-class map, and
classification-oriented tokens, which say which organs are in the slice.

Source: SEG-SAM, semantic-aware decoder.

Legend: B slices, K organs, D channels, E = D / 4, h4 x w4 the grid at stride 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.network.sam2_modules import LayerNorm2d, TwoWayTransformer


@dataclass(frozen=True)
class SemanticMap:
    """The decoder's result.

    Attributes:
        map_logits: (B, 1 + K, h4, w4), background first.
        object_score_logits: (B, K).
    """

    map_logits: Tensor
    object_score_logits: Tensor


class SemanticAwareDecoder(nn.Module):
    """Runs one transformer over the tokens of all organs together."""

    def __init__(self, *, transformer: TwoWayTransformer, channels: int) -> None:
        """Take a two-way transformer for D channels."""
        super().__init__()
        self.transformer = transformer
        self.segmentation_token = nn.Linear(channels, channels)
        self.classification_token = nn.Linear(channels, channels)
        self.background_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.pixels_coarse = nn.Conv2d(channels, channels // 4, kernel_size=1)
        self.pixels_middle = nn.Conv2d(channels, channels // 4, kernel_size=1)
        self.pixels_fine = nn.Conv2d(channels, channels // 4, kernel_size=1)
        self.norm = LayerNorm2d(channels // 4)
        self.kernel = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels // 4))
        self.presence = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, 1))

    def forward(self, pyramid: Sequence[Tensor], semantics: Tensor, position: Tensor) -> SemanticMap:
        """Decode all organs together.

        Args:
            pyramid: (B, D, h, w) at strides 4, 8, 16.
            semantics: (B, K, D).
            position: (1, D, h, w) positional code of the stride-16 grid.
        """
        fine, middle, coarse = pyramid
        num_slices, num_organs = semantics.shape[:2]
        tokens = torch.cat(
            [
                self.background_token.expand(num_slices, -1, -1),
                self.segmentation_token(semantics),
                self.classification_token(semantics),
            ],
            dim=1,
        )  # (B, 1 + 2 K, D)
        tokens, image = self.transformer(coarse, position.expand(num_slices, -1, -1, -1), tokens)
        image = image.transpose(1, 2).view_as(coarse)
        middle_pixels = self.pixels_middle(middle) + F.interpolate(
            self.pixels_coarse(image), size=middle.shape[-2:], mode="bilinear", align_corners=False
        )
        pixels = self.pixels_fine(fine) + F.interpolate(
            middle_pixels, size=fine.shape[-2:], mode="bilinear", align_corners=False
        )
        pixels = F.gelu(self.norm(pixels))  # (B, E, h4, w4)
        kernels = self.kernel(tokens[:, : 1 + num_organs])  # (B, 1 + K, E)
        return SemanticMap(
            map_logits=torch.einsum("bke,behw->bkhw", kernels, pixels),
            object_score_logits=self.presence(tokens[:, 1 + num_organs :]).squeeze(-1),
        )
