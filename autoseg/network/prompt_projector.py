"""Derives the prompts of SAM's mask decoder from the semantics of each organ.

Owns: the fusion of the feature scales in both directions, and the sparse and dense prompts made from it.

Source: CRISP-SAM2, semantic prompt projector in place of the geometric prompt encoder; SEG-SAM, the text summary
token among the sparse prompts.

Legend: B slices, K organs, P sparse prompt tokens, D channels, h x w the grid at stride 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.network.sam2_modules import Attention


@dataclass(frozen=True)
class Prompts:
    """The prompts of every organ in every slice.

    Attributes:
        sparse: (B, K, P + 1, D), the text summary token last.
        dense: (B, K, D, h, w).
    """

    sparse: Tensor
    dense: Tensor


class ScaleFusion(nn.Module):
    """Pass features between the scales: coarse to fine, then fine to coarse."""

    def __init__(self, channels: int, num_scales: int = 3) -> None:
        """Build depthwise convolutions, cheap beside the backbone."""
        super().__init__()
        self.down_path = nn.ModuleList(_separable(channels) for _ in range(num_scales - 1))
        self.up_path = nn.ModuleList(_separable(channels) for _ in range(num_scales - 1))

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Fuse (B, D, h, w) maps, finest first; the shapes stay."""
        maps = list(pyramid)
        for i in range(len(maps) - 2, -1, -1):
            coarser = F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
            maps[i] = maps[i] + self.down_path[i](maps[i] + coarser)
        for i in range(1, len(maps)):
            rows, columns = maps[i].shape[-2:]
            finer = F.adaptive_avg_pool2d(maps[i - 1], (rows, columns))
            maps[i] = maps[i] + self.up_path[i - 1](maps[i] + finer)
        return maps


class PromptProjector(nn.Module):
    """Turns the features that an organ's semantics attend to into the organ's prompts."""

    def __init__(self, *, channels: int, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.fusion = ScaleFusion(channels)
        self.queries = nn.Linear(channels, num_tokens * channels)
        self.attention = Attention(channels, 4)
        self.norm = nn.LayerNorm(channels)
        self.summary = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels))
        self.dense_features = nn.Conv2d(channels, channels, kernel_size=1)
        self.dense_semantics = nn.Linear(channels, channels)

    def forward(self, pyramid: Sequence[Tensor], semantics: Tensor) -> tuple[Prompts, list[Tensor]]:
        """Return the prompts and the fused pyramid; the pyramid is (B, D, h, w) at strides 4, 8, 16."""
        num_slices, num_organs, channels = semantics.shape
        fused = self.fusion(pyramid)
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in fused[1:]], dim=1)  # (B, N8 + N16, D)
        queries = self.queries(semantics).view(num_slices, num_organs * self.num_tokens, channels)
        sparse = self.norm(queries + self.attention(queries, tokens, tokens))
        sparse = sparse.view(num_slices, num_organs, self.num_tokens, channels)  # (B, K, P, D)
        sparse = torch.cat([sparse, self.summary(semantics).unsqueeze(2)], dim=2)  # (B, K, P + 1, D)
        features = self.dense_features(fused[-1]).unsqueeze(1)  # (B, 1, D, h, w)
        dense = features * self.dense_semantics(semantics)[..., None, None]  # (B, K, D, h, w)
        return Prompts(sparse=sparse, dense=dense), fused


def _separable(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels),
        nn.GELU(),
        nn.Conv2d(channels, channels, kernel_size=1),
    )
