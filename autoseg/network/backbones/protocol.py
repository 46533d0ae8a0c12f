"""Says what autoseg expects of an image backbone: `ImageBackbone`.

Owns: the protocol. `hiera.py` and `convolutional.py` fulfill it; `build_network(plans, image_backbone=...)` takes any
other object that does.

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
        """Cut (B, 3, H, W) images into (B, H / 4, W / 4, C) tokens, at which the organs' texts look."""

    def __call__(self, tokens: Tensor, semantics: Tensor) -> list[Tensor]:
        """Return (B, D, h, w) maps at strides 4, 8 and 16, finest first.

        Args:
            tokens: (B, H / 4, W / 4, C) from `embed`.
            semantics: (B, K, D), what the texts of the organs found in the tokens; a backbone may use it or not.
        """
