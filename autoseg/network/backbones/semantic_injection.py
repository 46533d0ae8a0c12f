"""Injects the organs' semantics into an image backbone.

Owns: `SemanticInjection`, the adapters of all stages.
Does not own: the semantics (`interaction.py`), where a backbone calls the adapters (`hiera.py`, `convolutional.py`).

Source: CRISP-SAM2, adapters with a shared down-projection and one up-projection per stage.

Legend: B slices, K organs, D channels, C channels of a stage, A channels of the adapters.
"""

import torch.nn.functional as F
from torch import Tensor, nn

ADAPTER_CHANNELS = 32


class SemanticInjection(nn.Module):
    """Lets each image token attend to the organs' semantics, at the stages that the plan names."""

    def __init__(self, *, channels: int, stage_channels: dict[int, int]) -> None:
        """Build a down-projection of D = `channels`, and one up-projection per stage of `stage_channels`."""
        super().__init__()
        self.down = nn.Linear(channels, 2 * ADAPTER_CHANNELS)
        self.query = nn.ModuleDict({str(s): nn.Linear(c, ADAPTER_CHANNELS) for s, c in stage_channels.items()})
        ups = {str(stage): nn.Linear(ADAPTER_CHANNELS, c) for stage, c in stage_channels.items()}
        for up in ups.values():
            # Zero at first: a pretrained backbone starts as it was. The bias stays free.
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        self.up = nn.ModuleDict(ups)

    def forward(self, tokens: Tensor, semantics: Tensor, *, stage: int) -> Tensor:
        """Add the semantics to (B, H, W, C) tokens; `semantics` are (B, K, D)."""
        if str(stage) not in self.up:
            return tokens
        key, value = self.down(semantics).chunk(2, dim=-1)  # (B, K, A) each
        query = self.query[str(stage)](tokens).flatten(1, 2)  # (B, H * W, A)
        mixed = F.scaled_dot_product_attention(query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)).squeeze(1)
        return tokens + self.up[str(stage)](F.gelu(mixed)).view_as(tokens)
