"""Lets the organs' sentences and the slice's image tokens attend to each other.

Owns: the progressive two-way attention that makes contextual semantics, one vector per organ and slice.

Source: CRISP-SAM2, section "Cross-modal semantic interaction": image to text and text to image, then both against
their fused features, level after level.

Legend: B slices, K organs, S sentences per organ, N image tokens, D channels.
"""

import torch
from torch import Tensor, nn

from autoseg.network.sam2_modules import Attention

NUM_HEADS = 4


class InteractionLevel(nn.Module):
    """One level: each side attends to the other, then to the fusion of both."""

    def __init__(self, channels: int, *, is_last: bool) -> None:
        """Build for D channels; the last level ends before the image side's fusion, which no part would read."""
        super().__init__()
        self.text_to_image = Attention(channels, NUM_HEADS)
        self.image_to_text = Attention(channels, NUM_HEADS)
        self.text_to_fused = Attention(channels, NUM_HEADS)
        self.image_to_fused = None if is_last else Attention(channels, NUM_HEADS)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3 if is_last else 4))

    def forward(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Refine (B, K * S, D) text and (B, N, D) image tokens; the shapes stay."""
        text_cross = self.norms[0](text + self.text_to_image(text, image, image))
        image_cross = self.norms[1](image + self.image_to_text(image, text, text))
        fused = torch.cat([text_cross, image_cross], dim=1)  # (B, K * S + N, D)
        text = self.norms[2](text_cross + self.text_to_fused(text_cross, fused, fused))
        if self.image_to_fused is None:
            return text, image_cross
        image = self.norms[3](image_cross + self.image_to_fused(image_cross, fused, fused))
        return text, image


class CrossModalInteraction(nn.Module):
    """Makes the contextual semantics of all requested organs together, from early image tokens."""

    def __init__(self, *, image_channels: int, channels: int, num_levels: int) -> None:
        """Build `num_levels` levels; with 0 the text stays as it is."""
        super().__init__()
        self.image_in = nn.Linear(image_channels, channels)
        self.pool = nn.AdaptiveAvgPool2d(8)  # 64 tokens tell where things are; more cost more and say little more
        self.levels = nn.ModuleList(
            InteractionLevel(channels, is_last=level == num_levels - 1) for level in range(num_levels)
        )
        self.score = nn.Linear(channels, 1, bias=False)  # the softmax would not see it

    def forward(self, early: Tensor, vectors: Tensor, is_sentence: Tensor) -> Tensor:
        """Return one vector per organ and slice, (B, K, D).

        Args:
            early: (B, H, W, C) image tokens before the backbone's first block.
            vectors: (K, S, D) sentence vectors.
            is_sentence: (K, S) True where there is a sentence.
        """
        num_slices = early.shape[0]
        image = self.pool(early.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)  # (B, N, C)
        image = self.image_in(image)  # (B, N, D)
        text = vectors[is_sentence].expand(num_slices, -1, -1)  # (B, sentences of all organs, D)
        for level in self.levels:
            text, image = level(text, image)
        # A weighted mean over each organ's own sentences; the weights are learned.
        grid = text.new_zeros(num_slices, *is_sentence.shape, text.shape[-1])
        grid[:, is_sentence] = text  # (B, K, S, D)
        weights = self.score(grid).squeeze(-1).masked_fill(~is_sentence, float("-inf")).softmax(dim=-1)  # (B, K, S)
        return (grid * weights.unsqueeze(-1)).sum(dim=2)  # (B, K, D)
