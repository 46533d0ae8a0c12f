"""A second image backbone, through the public API alone: trained, written, and used for prediction."""

import numpy as np
import torch

import autoseg
from autoseg.config.plans import write_plans
from autoseg.network.backbones.convolutional import ConvolutionalBackbone
from autoseg.system.atomic_files import write_json


def build(plans):
    backbone = ConvolutionalBackbone(feature_channels=plans.network.feature_channels, stage_channels=(8, 16, 32))
    return autoseg.build_network(plans, image_backbone=backbone)


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


def test_a_network_with_it_trains_and_predicts(tiny_plans, make_store, save_scan, tmp_path):
    plans = tiny_plans(2, training={"steps_per_epoch": 4, "epochs": 1})
    run = tmp_path / "run"
    make_store(plans, folder=run / "preprocessed")
    write_plans(plans, run / "plans.json")
    write_json(run / "splits.json", [{"train": ["case_1", "case_2"], "validation": ["case_0"]}])
    assert autoseg.train(run, device="cpu", build_network=build).steps == 4
    save_scan(tmp_path / "scan.nii.gz", np.zeros((4, 32, 32), np.float32))
    prediction = autoseg.predict(tmp_path / "scan.nii.gz", run, device="cpu", build_network=build)
    assert prediction.labels.shape == (32, 32, 4)
