"""Networks that can be followed by hand."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

FakeNetwork = Callable[[Tensor, Tensor], SimpleNamespace]


def middle_slice(images: Tensor, *, num_channels: int = 1) -> Tensor:
    """Cut the first channel of the middle one of the neighbors: (B, R, W)."""
    num_slices = images.shape[1] // num_channels
    return images[:, num_slices // 2 * num_channels]


@pytest.fixture
def brightness_as_logit() -> FakeNetwork:
    """Give a network that says "organ" as much as a pixel is bright, whatever the window, organ k k times as much."""

    def network(images: Tensor, organs: Tensor, **_rest: object) -> SimpleNamespace:
        pixel = middle_slice(images).unsqueeze(1)
        return SimpleNamespace(logits=torch.cat([torch.zeros_like(pixel), *(pixel * (k + 1) for k in organs)], dim=1))

    return network
