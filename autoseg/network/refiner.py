"""Refines the decoders' coarse masks to the slice's full resolution.

Owns: a U-shaped network on the slice itself, with the image encoder's features and both decoders' masks as context at
its bottleneck; kernels made from the text vectors turn its finest pixel embedding into the final map.

Source: CRISP-SAM2, mask refining. The number of stages is the number of levels of the network.

Legend: B slices, K organs, D channels, R x W the slice, C0.. channels of the stages, full resolution first.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXEL_CHANNELS = 12


class ChannelNorm(nn.GroupNorm):
    """Instance normalization as a GroupNorm with one group per channel: the same numbers, in half the time on a CPU.

    On a GPU it stays in the precision of its input, where autocast would convert the largest maps of all to float32 and
    back; the sums inside are in float32 in either case.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel of each slice, (B, C, h, w)."""
        if not x.is_cuda:
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions, each with instance normalization and a leaky rectifier."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False), ChannelNorm(outputs)),
            nn.LeakyReLU(0.1, inplace=True),
            *(nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False), ChannelNorm(outputs)),
            nn.LeakyReLU(0.1, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep the grid, change the channels."""
        return self.layers(x)


class Refiner(nn.Module):
    """A U-shaped network whose output kernels are made from text: its cost hardly grows with the number of organs."""

    def __init__(
        self,
        *,
        image_channels: int,
        channels: int,
        stage_channels: Sequence[int],
        stride: int = 1,
        point_prompts: bool = False,
    ) -> None:
        """Build one stage per entry of `stage_channels`.

        Args:
            image_channels: The channels of the slice with its neighbors.
            channels: D.
            stage_channels: The width of each stage, finest first.
            stride: The stride of the finest stage. At 2, blocks of 2 x 2 pixels enter and leave as channels: no pixel
                is lost, and the stage costs a quarter.
            point_prompts: Whether the picture of points is painted beside the masks.
        """
        super().__init__()
        widths = list(stage_channels)
        self.stride = stride
        inputs = image_channels * stride**2
        self.down = nn.ModuleList(
            ConvBlock(before, after) for before, after in zip([inputs, *widths[:-1]], widths, strict=True)
        )
        self.context = nn.Conv2d(2 * channels, widths[-1], kernel_size=1)
        self.bottleneck = ConvBlock(2 * widths[-1], widths[-1])
        self.widen = nn.ModuleList(
            nn.ConvTranspose2d(below, here, kernel_size=2, stride=2) for here, below in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(ConvBlock(2 * here, here) for here in widths[:-1])
        self.organ_norm = nn.LayerNorm(channels)
        self.paint = nn.Linear(channels, channels)
        self.paint_points = nn.Linear(channels, 2 * channels) if point_prompts else None
        self.to_pixels = PixelHead(widths[0], stride=stride)
        self.kernels = nn.ModuleList(TextKernels(channels, width) for width in (self.to_pixels.channels, *widths[1:2]))

    def forward(
        self, images: Tensor, *, fine: Tensor, masks: Tensor, organs: Tensor, point_prompts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (B, 1 + K, R, W) logits, and those of the second stage for deep supervision, if there is one.

        Args:
            images: (B, C, R, W) the slice with its neighbors; R and W are multiples of stride * 2 ** (stages - 1).
            fine: (B, D, h4, w4) the finest features of the image encoder.
            masks: (B, K, h4, w4) probabilities, the mean of both decoders'.
            organs: (B, K, D) each organ's semantics plus its mask token.
            point_prompts: (B, K, 2, h4, w4) picture of points, or None.
        """
        organs = self.organ_norm(organs)
        skips = []
        x = F.pixel_unshuffle(images, self.stride)
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        # Masks of any number of organs enter as one map: each pixel is painted with the vectors of its organs.
        painted = torch.einsum("bkhw,bkd->bdhw", masks, self.paint(organs))  # (B, D, h4, w4)
        if self.paint_points is not None and point_prompts is not None:
            vectors = self.paint_points(organs).unflatten(2, (2, -1))  # (B, K, 2, D): of points, of boxes
            painted = painted + torch.einsum("bkchw,bkcd->bdhw", point_prompts, vectors)
        context = F.adaptive_avg_pool2d(self.context(torch.cat([fine, painted], dim=1)), (x.shape[-2], x.shape[-1]))
        x = self.bottleneck(torch.cat([x, context], dim=1))
        coarse = None
        for level in range(len(self.up) - 1, -1, -1):
            if level == 0:
                coarse = self.kernels[1](x, organs)  # (B, 1 + K, R / 2, W / 2)
            x = self.up[level](torch.cat([skips[level], self.widen[level](x)], dim=1))
        cells = self.kernels[0](self.to_pixels(x), organs)  # (B, 1 + K, stride ** 2, R / stride, W / stride)
        # Shuffled last, when a pixel holds a number for each organ instead of its channels: a slow copy of little.
        return F.pixel_shuffle(cells.flatten(1, 2), self.stride), coarse


class PixelHead(nn.Module):
    """Maps the finest stage to the pixels inside each of its cells."""

    def __init__(self, width: int, *, stride: int) -> None:
        """Build from `width` channels at `stride` to PIXEL_CHANNELS at 1; at stride 1 nothing is changed."""
        super().__init__()
        self.conv = nn.Conv2d(width, PIXEL_CHANNELS * stride**2, kernel_size=1) if stride > 1 else None
        self.channels = PIXEL_CHANNELS if stride > 1 else width

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, width, R / stride, W / stride) into (B, channels, stride ** 2, R / stride, W / stride)."""
        if self.conv is None:
            return x.unsqueeze(2)
        return F.leaky_relu(self.conv(x), 0.1).unflatten(1, (self.channels, -1))


class TextKernels(nn.Module):
    """1 x 1 convolutions whose kernels are made from the organs' vectors; background has a kernel of its own."""

    def __init__(self, channels: int, width: int) -> None:
        """Build kernels of `width` from vectors of D."""
        super().__init__()
        self.make = nn.Linear(channels, width + 1)
        self.background = nn.Parameter(torch.zeros(width + 1))

    def forward(self, pixels: Tensor, organs: Tensor) -> Tensor:
        """Return (B, 1 + K, ..) logits from (B, width, ..) pixels, a grid of any dimension, and (B, K, D) organs."""
        kernels = torch.cat([self.background.expand(len(organs), 1, -1), self.make(organs)], dim=1)
        logits = kernels[..., :-1] @ pixels.flatten(2) + kernels[..., -1:]  # (B, 1 + K, pixels)
        return logits.unflatten(2, pixels.shape[2:])
