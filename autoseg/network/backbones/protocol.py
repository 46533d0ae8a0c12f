"""Defines what autoseg expects of an image backbone: `ImageBackbone`.

`hiera.py` and `convolutional.py` fulfill it; `build_network(plans, image_backbone=...)` takes any object that does.

Legend: B slices, K organs, D the plan's feature channels, C the backbone's channels at stride 4.
"""

from typing import Protocol

from torch import Tensor


class ImageBackbone(Protocol):
    """Turns a slice into a pyramid of features; it is called once per slice, whatever the number of organs.

    Example:
        >>> def build(plans):
        ...     return autoseg.build_network(plans, image_backbone=MyBackbone(plans.network.feature_channels))
        >>> autoseg.train("my_run", build_network=build)
    """

    token_channels: int  # C

    def embed(self, images: Tensor) -> Tensor:
        """Cut (B, 3, H, W) images into (B, H / 4, W / 4, C) tokens, which the organs' texts attend to."""

    def __call__(self, tokens: Tensor, semantics: Tensor) -> list[Tensor]:
        """Return (B, D, h, w) maps at strides 4, 8 and 16, finest first.

        Args:
            tokens: (B, H / 4, W / 4, C) from `embed`.
            semantics: (B, K, D), the organs' contextual semantics, which a backbone may use or ignore.
        """
