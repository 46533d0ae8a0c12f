"""Makes plans and text vectors of networks that are measured on noise, with new weights."""

from collections.abc import Mapping
from typing import Any

import torch

from autoseg.config.plans import Plans
from autoseg.network.build import build_network
from autoseg.network.model import AutosegNetwork
from autoseg.network.text.cached_text import StoredText

SENTENCES = 6


def make_noise_plans(
    num_organs: int,
    *,
    network: Mapping[str, Any],
    inference: Mapping[str, Any],
    channel: Mapping[str, Any] | None = None,
    spacing_zyx_mm: tuple[float, ...] = (3.0, 1.0, 1.0),
    memory_gib: float = 16,
) -> Plans:
    """Make a plan for a CPU and one channel, a CT normalized by its own values unless `channel` says otherwise."""
    organs = [{"name": f"organ {k}", "value": k + 1, "sentences": ["."] * SENTENCES} for k in range(num_organs)]
    return Plans.model_validate(
        {
            "dataset_name": "noise",
            "device": {"kind": "cpu", "memory_gib": memory_gib},
            "data": {
                "channels": [channel or {"name": "CT", "normalization": "zscore"}],
                "organs": organs,
                "target_spacing_zyx_mm": spacing_zyx_mm,
                "slice_axis": "z",
            },
            "network": network,
            "training": {},
            "inference": inference,
        }
    )


def build_with_noise_text(plans: Plans) -> AutosegNetwork:
    """Build the network with text vectors drawn at random, as a finished model has them stored."""
    torch.manual_seed(0)
    shape = (len(plans.data.organs), len(plans.data.organs[0].sentences))
    vectors = torch.randn(*shape, plans.network.feature_channels)
    return build_network(plans, text=StoredText(vectors, torch.ones(shape, dtype=torch.bool))).eval()
