import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from training_fixtures import compute_losses

from autoseg.errors import CheckpointError
from autoseg.network.build import build_network
from autoseg.network.text.clip_image_encoder import build_clip_image
from autoseg.network.text.open_clip_models import build_visual, load_clip
from autoseg.training.optim.optimizers import build_optimizers


def plan_with(tiny_plans, model="nano", weights=None, **network):
    text = {"model": model, "weights": None if weights is None else str(weights)}
    return tiny_plans(2, network={"interaction_image_encoder": "clip", "text": text, **network})


def build_tower(tiny_plans, model="nano", weights=None, **network):
    plan = plan_with(tiny_plans, model, weights, **network).network
    return build_clip_image(plan, None if model == "nano" else load_clip(plan.text))


def test_tokens_are_the_models_own_patch_tokens_each_in_its_place(tiny_plans, small_clip):
    """Taken by a hook from the whole model of open_clip, class token first; the norm is told apart by hand."""
    model, weights = small_clip
    tower = build_tower(tiny_plans, "small-clip", weights)
    images = torch.randn(2, 3, 32, 32)
    kept = []
    model.visual.transformer.register_forward_hook(lambda _m, _args, output: kept.append(output))
    with torch.no_grad():
        model.encode_image(images)
        tokens = tower(images)
    assert tokens.shape == (2, 2, 2, 32)
    assert kept[0].shape == (2, 5, 32)
    expected = F.layer_norm(kept[0][:, 1:], (32,))
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(tokens[:, row, column], expected[:, place])


def test_both_towers_come_from_one_model_loaded_once(tiny_plans, small_clip, monkeypatch):
    model, weights = small_clip
    created = []
    real = open_clip.create_model
    monkeypatch.setattr(open_clip, "create_model", lambda *args, **options: created.append(1) or real(*args, **options))
    network = build_network(plan_with(tiny_plans, "small-clip", weights))
    assert created == [1]
    assert torch.equal(network.image_tower.visual.conv1.weight, model.visual.conv1.weight)
    with torch.no_grad():
        tokens = open_clip.get_tokenizer("small-clip")(["the left organ"])
        torch.testing.assert_close(network.text.frozen_vectors[0, :1], model.encode_text(tokens))


def step(network, plans):
    """Train one step from a random slice."""
    (optimizer,) = build_optimizers(network, plans=plans)
    labels = torch.randint(0, 3, (2, 32, 32))
    output = network(torch.randn(2, 3, 32, 32), torch.arange(2))
    compute_losses(output, labels, weights=plans.training.loss)["total"].backward()
    optimizer.step()
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def adamw_alone(plans):
    return plans.model_copy(update={"training": plans.training.model_copy(update={"refiner_optimizer": "adamw"})})


def test_pretrained_tower_stays_as_it_is_and_its_norm_learns(tiny_plans, small_clip):
    plans = adamw_alone(plan_with(tiny_plans, "small-clip", small_clip[1]))
    network = build_network(plans)
    tower = network.image_tower
    assert network.training and tower.training and tower.norm.training
    assert not any(module.training for module in tower.visual.modules())
    network.train()
    assert not any(module.training for module in tower.visual.modules())
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    moved = step(network, plans)
    assert not moved & {id(parameter) for parameter in tower.visual.parameters()}
    assert all(p.grad is None and not p.requires_grad for p in tower.visual.parameters())
    changed = {name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"norm.weight", "norm.bias"}


@pytest.mark.parametrize("model", ["nano", "small-clip"])
def test_tower_without_weights_learns_in_all_its_parts(tiny_plans, small_clip, model):
    plans = adamw_alone(plan_with(tiny_plans, model))
    network = build_network(plans)
    tower = network.image_tower
    assert all(module.training for module in tower.modules())
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    step(network, plans)
    assert len(before) > 15
    same = {name for name, value in tower.state_dict().items() if torch.equal(value, before[name])}
    assert same == {"config"}


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_models_of_timm_give_tokens_and_learn_in_all_their_parts(tiny_plans, teach_open_clip, name):
    teach_open_clip("timm-clip", timm_model_name=name, timm_pool="avg", image_size=160)
    tower = build_tower(tiny_plans, "timm-clip")
    tokens = tower(torch.randn(1, 3, 32, 32))
    assert tokens.shape == ((1, 10, 10, 64) if name == "test_vit" else (1, 5, 5, 64))
    (tokens * torch.randn_like(tokens)).sum().backward()
    assert [name for name, p in tower.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_description_cannot_make_the_building_fetch_weights_or_drop_patches(monkeypatch):
    asked = {}
    real = timm.create_model

    def create(name, **options):
        asked.update(options)
        return real(name, **options | {"pretrained": False})

    monkeypatch.setattr(timm, "create_model", create)
    vision = {"timm_model_name": "test_vit", "image_size": 160, "timm_model_pretrained": True, "patch_dropout": 0.5}
    build_visual({"embed_dim": 8, "vision_cfg": vision})
    assert asked["pretrained"] is False and "patch_drop_rate" not in asked


def test_resnets_are_refused_with_what_to_take_instead(tiny_plans, teach_open_clip, tmp_path):
    teach_open_clip("resnet-clip", image_size=32, layers=[1, 1, 1, 1], width=8, head_width=16)
    with pytest.raises(CheckpointError, match=r"'resnet-clip' has batch norm.*such as ViT-B-16"):
        build_tower(tiny_plans, "resnet-clip")
    torch.save(open_clip.create_model("resnet-clip").state_dict(), tmp_path / "resnet.pt")
    with pytest.raises(CheckpointError, match=r"no patch tokens .*'resnet-clip': ModifiedResNet .*ViT-B-16"):
        build_tower(tiny_plans, "resnet-clip", tmp_path / "resnet.pt")
