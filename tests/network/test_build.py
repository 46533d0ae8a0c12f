import functools

import pytest
import torch

from autoseg.network.build import build_network
from autoseg.network.sam2_modules import HIERA_SIZES
from autoseg.network.text.cached_text import StoredText


@pytest.mark.parametrize("size", HIERA_SIZES)
def test_every_backbone_builds_a_whole_network(tiny_plans, size, monkeypatch):
    """Without memory; Hiera asks for single values of a linspace, which has to lie on the CPU for that."""
    plans = tiny_plans(2, network={"backbone": size, "feature_channels": 64 if size == "nano" else 256})
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        text = StoredText(torch.zeros(2, 1, plans.network.feature_channels), torch.ones(2, 1, dtype=torch.bool))
        network = build_network(plans, text=text)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    low, high = {"nano": (1, 4), "tiny": (30, 45), "small": (40, 55), "base_plus": (75, 95), "large": (215, 240)}[size]
    assert low < millions < high
