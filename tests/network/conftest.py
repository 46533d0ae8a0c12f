"""Tiny networks, seeded, on one thread."""

from collections.abc import Callable, Iterator

import pytest
import torch

from autoseg.network.build import build_network
from autoseg.network.model import AutosegNetwork
from autoseg.plans import Plans


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    yield
    torch.set_num_threads(threads)


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
