"""Encodes slices with plain convolutions: the simplest `ImageBackbone`, and an example for your own.

Legend: B slices, K organs, D channels of the pyramid, C channels of a stage.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from autoseg.network.backbones.semantic_injection import SemanticInjection


class ConvolutionalBackbone(nn.Module):
    """A convolutional network with three stages, whose outputs at strides 4, 8 and 16 are the pyramid.

    Example:
        >>> backbone = ConvolutionalBackbone(feature_channels=64)
        >>> maps = backbone(backbone.embed(torch.zeros(2, 3, 64, 64)), torch.zeros(2, 5, 64))
        >>> [tuple(one.shape) for one in maps]
        [(2, 64, 16, 16), (2, 64, 8, 8), (2, 64, 4, 4)]
    """

    def __init__(self, *, feature_channels: int, stage_channels: Sequence[int] = (32, 64, 128)) -> None:
        """Build stages of C = `stage_channels` at strides 4, 8 and 16, and a pyramid of D = `feature_channels`."""
        super().__init__()
        first = stage_channels[0]
        self.token_channels = first
        self.patches = nn.Conv2d(3, first, kernel_size=7, stride=4, padding=3)
        inputs = (first, *stage_channels[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, kernel_size=3, stride=1 if stage == 0 else 2, padding=1),
                nn.GroupNorm(8, after),
                nn.GELU(),
                nn.Conv2d(after, after, kernel_size=3, padding=1),
                nn.GroupNorm(8, after),
                nn.GELU(),
            )
            for stage, (before, after) in enumerate(zip(inputs, stage_channels, strict=True))
        )
        self.injection = SemanticInjection(channels=feature_channels, stage_channels=dict(enumerate(stage_channels)))
        self.outputs = nn.ModuleList(
            nn.Conv2d(channels, feature_channels, kernel_size=1) for channels in stage_channels
        )

    def embed(self, images: Tensor) -> Tensor:
        """Cut (B, 3, H, W) images into (B, H / 4, W / 4, C) tokens."""
        return self.patches(images).permute(0, 2, 3, 1)

    def forward(self, tokens: Tensor, semantics: Tensor) -> list[Tensor]:
        """Return (B, D, h, w) maps at strides 4, 8 and 16, finest first, from the tokens and (B, K, D) semantics."""
        maps, pyramid = tokens.permute(0, 3, 1, 2), []
        for number, (stage, output) in enumerate(zip(self.stages, self.outputs, strict=True)):
            maps = stage(maps)  # (B, C, h, w)
            maps = self.injection(maps.permute(0, 2, 3, 1), semantics, stage=number).permute(0, 3, 1, 2)
            pyramid.append(output(maps))
        return pyramid
