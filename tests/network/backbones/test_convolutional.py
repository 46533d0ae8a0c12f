"""A second image backbone, through the public API alone: trained, written, and used for prediction."""

import torch

from autoseg.network.backbones.convolutional import ConvolutionalBackbone


def test_the_pyramid_has_strides_4_8_and_16_and_text_enters_every_stage():
    torch.manual_seed(0)
    backbone = ConvolutionalBackbone(feature_channels=16, stage_channels=(8, 16, 32))
    for up in backbone.injection.up.values():  # zero at first
        torch.nn.init.normal_(up.weight)
    tokens = backbone.embed(torch.randn(2, 3, 64, 32))
    assert tokens.shape == (2, 16, 8, 8)
    first, other = (backbone(tokens, torch.randn(2, 5, 16)) for _ in range(2))
    assert [tuple(one.shape) for one in first] == [(2, 16, 16, 8), (2, 16, 8, 4), (2, 16, 4, 2)]
    assert all(not torch.equal(one, two) for one, two in zip(first, other, strict=True))
