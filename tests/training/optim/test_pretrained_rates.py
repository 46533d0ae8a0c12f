import pytest
import torch

from autoseg.training.optim.learning_rate import set_learning_rate
from autoseg.training.optim.optimizers import build_optimizers
from autoseg.training.optim.pretrained_rates import pretrained_factors

NAMES = [
    "image_encoder.hiera.patch_embed.proj.weight",
    "image_encoder.hiera.blocks.0.norm1.weight",  # tiny: blocks 1, 2, 7, 2
    "image_encoder.hiera.blocks.2.norm1.weight",
    "image_encoder.hiera.blocks.3.norm1.weight",
    "image_encoder.hiera.blocks.9.norm1.weight",
    "image_encoder.hiera.blocks.10.norm1.weight",
    "image_encoder.injection.down.weight",
    "mask_decoder.decoder.iou_token.weight",
    "mask_decoder.semantic_token",
    "memory.attention.norm.weight",
    "memory.paint.weight",
    "refiner.paint.weight",
]


def plans_with(tiny_plans):
    return tiny_plans(
        1,
        network={"backbone": "tiny", "weights": "some.pt"},
        training={"pretrained_learning_rate_factor": 0.1, "layer_decay": 0.5, "freeze_fraction": 0.25},
    )


def test_factors_fall_from_stage_to_stage_towards_the_input(tiny_plans):
    pretrained = [name for number, name in enumerate(NAMES) if number not in (6, 8, 10, 11)]
    factors = pretrained_factors(pretrained, plans=plans_with(tiny_plans))
    assert factors == {
        NAMES[0]: pytest.approx(0.0125),
        NAMES[1]: pytest.approx(0.0125),
        NAMES[2]: pytest.approx(0.025),
        NAMES[3]: pytest.approx(0.05),
        NAMES[4]: pytest.approx(0.05),
        NAMES[5]: pytest.approx(0.1),
        NAMES[7]: pytest.approx(0.1),
        NAMES[9]: pytest.approx(0.1),
    }


class Small(torch.nn.Module):
    """Two weights, one of them with a pretrained one's name."""

    def __init__(self):
        super().__init__()
        self.image_encoder = torch.nn.ModuleDict({"hiera": torch.nn.ModuleDict({"patch_embed": torch.nn.Linear(2, 2)})})
        self.rest = torch.nn.Linear(2, 2)


def test_pretrained_weights_stay_to_the_bit_in_the_first_phase_and_move_slowly_in_the_second(tiny_plans):
    plans = plans_with(tiny_plans)
    network = Small()
    old, new = network.image_encoder["hiera"]["patch_embed"].weight, network.rest.weight
    optimizers = build_optimizers(
        network,
        plans=plans,
        pretrained=["image_encoder.hiera.patch_embed.weight", "image_encoder.hiera.patch_embed.bias"],
    )
    with torch.no_grad():
        old.copy_(new)
    before = old.clone()

    def step(progress):
        set_learning_rate(optimizers, 0.01, progress=progress)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimizer in optimizers:
            optimizer.step()

    step(0.0)
    step(0.24)
    assert torch.equal(old, before) and not torch.equal(new, before)
    moved = new.detach().clone()
    step(0.25)
    slow, fast = (before - old).mean().item(), (moved - new).mean().item()
    assert slow == pytest.approx(0.0125 * fast, rel=0.2)
