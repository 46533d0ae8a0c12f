"""Encodes slices with SAM2's Hiera; the organs' semantics enter at each stage.

Owns: `HieraBackbone`, which runs Hiera's blocks and the feature pyramid.
Does not own: Hiera itself (`sam2_modules.py`), the adapters (`semantic_injection.py`).

Legend: B slices, K organs, D channels, C channels of a stage.
"""

from torch import Tensor, nn

from autoseg.network.backbones.semantic_injection import SemanticInjection
from autoseg.network.sam2_modules import FpnNeck, Hiera


class HieraBackbone(nn.Module):
    """SAM2's Hiera as an `ImageBackbone`."""

    def __init__(self, *, hiera: Hiera, neck: FpnNeck, injection: SemanticInjection, token_channels: int) -> None:
        super().__init__()
        self.hiera = hiera
        self.neck = neck
        self.injection = injection
        self.token_channels = token_channels

    def embed(self, images: Tensor) -> Tensor:
        """Cut (B, 3, H, W) images into patches: (B, H / 4, W / 4, C) tokens with their positions."""
        tokens = self.hiera.patch_embed(images)
        return tokens + self.hiera._get_pos_embed(tokens.shape[1:3])

    def forward(self, tokens: Tensor, semantics: Tensor) -> list[Tensor]:
        """Return (B, D, h, w) maps at strides 4, 8 and 16; tokens are (B, h, w, C), semantics (B, K, D)."""
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
        features: list[Tensor] = self.neck(outputs)[0]
        return features[:3]
