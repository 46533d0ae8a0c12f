"""Learns one vector per organ in place of the text encoder, as a baseline that ignores the descriptions.

Legend: K organs, D channels.
"""

import torch
from torch import Tensor, nn


class LearnedText(nn.Module):
    """Give each organ of the plan a vector of its own; the same call as `TextEncoder`."""

    def __init__(self, num_organs: int, *, channels: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(num_organs, 1, channels))

    def forward(self, organs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (K, 1, D) vectors of the organs at these positions, and (K, 1) True: each has one "sentence"."""
        vectors = self.vectors[organs]
        return vectors, torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
