"""Tiny networks, seeded."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from autoseg.config.plans import Plans, TextPlan
from autoseg.network.build import build_network
from autoseg.network.model import AutosegNetwork
from autoseg.network.text.text_encoder import TextEncoder, build_text_encoder

SMALL_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(7)


@pytest.fixture
def make_network(tiny_plans: Callable[..., Plans]) -> Callable[..., tuple[AutosegNetwork, Plans]]:
    """Build a network whose new layers say something: those that start at zero are moved away from it."""

    def make(num_organs: int = 2, *, num_channels: int = 1, **network: object) -> tuple[AutosegNetwork, Plans]:
        plans = tiny_plans(num_organs, num_channels=num_channels, network=network)
        built = build_network(plans).eval()
        with torch.no_grad():
            for parameter in built.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
        return built, plans

    return make


@pytest.fixture
def encode() -> Callable[..., tuple[TextEncoder, tuple[torch.Tensor, torch.Tensor]]]:
    """Give a maker of text encoders of width 16, returned with the vectors of all their organs."""

    def make(sentences: list[list[str]], plan: TextPlan | None = None) -> Any:
        torch.manual_seed(0)
        encoder = build_text_encoder(plan or TextPlan(), sentences, feature_channels=16).eval()
        with torch.no_grad():
            encoder.position.normal_()
            return encoder, encoder(torch.arange(len(sentences)))

    return make


@pytest.fixture
def teach_open_clip(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Give a maker of models that open_clip then knows by name; the parts are changed as in its files."""
    names = []

    def teach(name: str, **vision: object) -> str:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(SMALL_CLIP | {"vision_cfg": vision or SMALL_CLIP["vision_cfg"]}))
        open_clip.add_model_config(path)
        names.append((name, path))
        return name

    yield teach
    for name, path in names:
        open_clip.factory._MODEL_CONFIGS.pop(name, None)
        open_clip.factory._MODEL_CONFIG_PATHS.remove(path)


@pytest.fixture
def small_clip(teach_open_clip: Callable[..., str], tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    """Teach open_clip a small model, and save weights of it as a user would."""
    torch.manual_seed(11)
    model = open_clip.create_model(teach_open_clip("small-clip")).eval()
    weights = tmp_path / "weights.pt"
    torch.save(model.state_dict(), weights)
    return model, weights
