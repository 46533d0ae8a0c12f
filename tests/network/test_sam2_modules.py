import functools

import hydra
import hydra.utils
import pytest
import torch

from autoseg.network.sam2_modules import (
    HIERA_SIZES,
    build_hiera,
)

CONFIGS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


@pytest.fixture
def shapes_only(monkeypatch):
    """Build without memory. Hiera asks for single values of a linspace, which has to lie on the CPU for that."""
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("size", CONFIGS)
def test_every_size_of_hiera_is_what_sam2_builds_from_its_configuration(size, shapes_only):
    ours = build_hiera(size)
    config = hydra.compose(config_name=f"configs/sam2.1/sam2.1_hiera_{CONFIGS[size]}.yaml")
    metas = hydra.utils.instantiate(config.model.image_encoder.trunk)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in metas.state_dict().items()}
    assert [block.window_size for block in ours.blocks] == [block.window_size for block in metas.blocks]
    assert ours.stage_ends == metas.stage_ends
    assert ours.channel_list[::-1] == list(HIERA_SIZES[size].stage_channels)
