import functools

import pytest
import torch

from autoseg.errors import CheckpointError
from autoseg.network.build import build_network
from autoseg.network.sam2_parts import HIERA_SIZES, build_hiera, build_mask_decoder, build_neck
from autoseg.network.stored_text import StoredText


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


def test_a_checkpoint_named_in_the_plan_is_loaded(tiny_plans, tmp_path):
    """Its own Hiera, neck and decoder come back out of the network, of a size that trains in a second."""
    torch.manual_seed(5)
    parts = {
        "image_encoder.trunk.": build_hiera("nano"),
        "image_encoder.neck.": build_neck("nano", feature_channels=16),
        "sam_mask_decoder.": build_mask_decoder("nano", feature_channels=16),
    }
    weights = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    code = torch.randn(2, 8)
    weights["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = code
    torch.save({"model": weights}, tmp_path / "sam2.pt")
    torch.manual_seed(6)
    network = build_network(tiny_plans(1, network={"weights": str(tmp_path / "sam2.pt")}))
    state = network.state_dict()
    assert torch.equal(state["position.positional_encoding_gaussian_matrix"], code)
    for theirs, ours in (
        ("image_encoder.trunk.", "image_encoder.hiera."),
        ("image_encoder.neck.", "image_encoder.neck."),
        ("sam_mask_decoder.", "mask_decoder.decoder."),
    ):
        keys = [key for key in weights if key.startswith(theirs)]
        assert len(keys) >= 8
        assert all(torch.equal(state[ours + key[len(theirs) :]], weights[key]) for key in keys)


def test_a_checkpoint_that_is_not_there_is_named(tiny_plans):
    with pytest.raises(CheckpointError, match=r"/nowhere/sam2\.pt"):
        build_network(tiny_plans(1, network={"weights": "/nowhere/sam2.pt"}))
