"""SAM2's image encoder with the organs' semantics entering at each stage.

Owns: the walk through Hiera's blocks, the adapters, the feature pyramid.
Does not own: Hiera itself (`sam2_modules.py`), the semantics (`interaction.py`).

Source: CRISP-SAM2, adapters with a shared down-projection and one up-projection a stage.

Legend: B slices, K organs, D channels, C channels of a stage.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.network.sam2_modules import FpnNeck, Hiera

ADAPTER_CHANNELS = 32


class SemanticInjection(nn.Module):
    """Let each image token take what it needs from the organs' semantics, at the stages that the plan names."""

    def __init__(self, *, channels: int, stage_channels: dict[int, int]) -> None:
        """Build one up-projection a stage; the down-projection of the semantics is shared.

        Args:
            channels: D.
            stage_channels: Stage number to its C.
        """
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


class ImageEncoder(nn.Module):
    """A slice becomes a pyramid of features; called once a slice, whatever the number of organs."""

    def __init__(self, *, hiera: Hiera, neck: FpnNeck, injection: SemanticInjection) -> None:
        """Take the built parts."""
        super().__init__()
        self.hiera = hiera
        self.neck = neck
        self.injection = injection

    def embed(self, images: Tensor) -> Tensor:
        """Cut (B, 3, H, W) images into patches: (B, H / 4, W / 4, C) tokens with their positions."""
        tokens = self.hiera.patch_embed(images)
        return tokens + self.hiera._get_pos_embed(tokens.shape[1:3])

    def forward(self, tokens: Tensor, semantics: Tensor) -> list[Tensor]:
        """Run the backbone with injection, and the pyramid.

        Args:
            tokens: (B, h, w, C) from `embed`.
            semantics: (B, K, D).

        Returns:
            (B, D, h, w) maps at strides 4, 8 and 16, finest first.
        """
        outputs: list[Tensor] = []
        stage = 0
        tokens = self.injection(tokens, semantics, stage=0)
        for number, block in enumerate(self.hiera.blocks):
            tokens = block(tokens)
            if number in self.hiera.stage_ends:
                outputs.append(tokens.permute(0, 3, 1, 2))
                stage += 1
                if stage < len(self.hiera.stage_ends):
                    tokens = self.injection(tokens, semantics, stage=stage)
        return _pyramid(self.neck, outputs)[:3]


def _pyramid(neck: FpnNeck, outputs: Sequence[Tensor]) -> list[Tensor]:
    features, _positions = neck(outputs)
    return features
