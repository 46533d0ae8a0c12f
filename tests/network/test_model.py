import pytest
import torch
from training_fixtures import compute_losses

FIELDS = ("logits", "coarse_logits", "mask_logits", "map_logits", "iou_predictions", "object_score_logits")


def inputs(plans, num_slices=2):
    network = plans.network
    channels = (2 * network.context_slices + 1) * len(plans.data.channels)
    images = torch.randn(num_slices, channels, network.window_rows_px, network.window_columns_px)
    return images, torch.arange(len(plans.data.organs))


@pytest.mark.parametrize("num_organs", [1, 2, 5])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_forward_any_number_of_organs_and_channels_gives_one_map_with_background_first(
    make_network, num_organs, num_channels
):
    network, plans = make_network(num_organs, num_channels=num_channels)
    with torch.no_grad():
        output = network(*inputs(plans))
    assert output.logits.shape == (2, 1 + num_organs, 32, 32)
    assert output.coarse_logits.shape == (2, 1 + num_organs, 16, 16)
    assert output.mask_logits.shape == (2, num_organs, 8, 8)
    assert output.map_logits.shape == (2, 1 + num_organs, 8, 8)
    assert output.iou_predictions.shape == output.object_score_logits.shape == (2, num_organs)
    assert output.semantic_object_score_logits.shape == (2, num_organs)
    assert all(bool(getattr(output, name).isfinite().all()) for name in FIELDS)
    assert output.iou_predictions.min() >= 0 and output.iou_predictions.max() <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"window_rows_px": 48, "window_columns_px": 32},
        {"window_rows_px": 16, "window_columns_px": 80},
        {"image_size_px": 64},
        {"refiner_stride": 2, "window_rows_px": 48, "window_columns_px": 64},
        {"refiner_stride": 4, "refiner_channels": [4, 8], "window_rows_px": 80},
        {"refiner_channels": [8]},
        {"refiner_channels": [4, 8, 8, 12]},
        {"refiner_channels": []},
        {"refiner_channels": [], "semantic_decoder": False},
        {"text": {"model": "learned"}},
        {"interaction_levels": 0},
        {"interaction_image_encoder": "clip"},
        {"interaction_image_encoder": "clip", "image_size_px": 160},
        {"injection_stages": []},
        {"injection_stages": [2]},
        {"prompt_tokens": 1},
        {"context_slices": 2},
        {"feature_channels": 32},
    ],
    ids=str,
)
def test_forward_window_and_parts_of_any_plan_gives_the_windows_own_size(make_network, changes):
    network, plans = make_network(3, **changes)
    images, organs = inputs(plans)
    with torch.no_grad():
        output = network(images, organs)
    grid = plans.network.image_size_px // 4
    assert output.logits.shape == (2, 4, plans.network.window_rows_px, plans.network.window_columns_px)
    assert output.mask_logits.shape == (2, 3, grid, grid)
    assert bool(output.logits.isfinite().all())


def test_forward_with_organs_in_another_order_gives_the_maps_in_that_order(make_network):
    network, plans = make_network(4)
    images, _ = inputs(plans)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        one, other = network(images, torch.arange(4)), network(images, order)
    with_background = torch.cat([torch.tensor([0]), order + 1])
    for name in ("logits", "coarse_logits", "map_logits"):
        expected = getattr(one, name)[:, with_background]
        torch.testing.assert_close(getattr(other, name), expected, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(getattr(one, name), expected, atol=1e-3), f"all organs alike in {name}: no test"
    for name in ("mask_logits", "iou_predictions", "object_score_logits", "semantic_object_score_logits"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name)[:, order], atol=1e-4, rtol=1e-3)


def test_forward_a_slice_does_not_depend_on_the_others_of_its_batch(make_network):
    network, plans = make_network(2)
    images, organs = inputs(plans, num_slices=3)
    with torch.no_grad():
        together = network(images, organs)
        alone = network(images[1:2], organs)
    for name in FIELDS:
        torch.testing.assert_close(getattr(together, name)[1:2], getattr(alone, name), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(together.logits[0], together.logits[1], atol=1e-2)


@pytest.mark.parametrize("num_organs", [1, 5])
def test_forward_encodes_a_slice_once_whatever_the_number_of_organs(make_network, num_organs):
    network, plans = make_network(num_organs, interaction_image_encoder="clip")
    seen = []
    network.image_encoder.register_forward_hook(lambda _module, args, _output: seen.append(args[0].shape[0]))
    blocks = []
    network.image_encoder.hiera.blocks[0].register_forward_hook(lambda _m, args, _o: blocks.append(args[0].shape[0]))
    patches = []
    network.image_tower.visual.conv1.register_forward_hook(lambda _m, args, _o: patches.append(args[0].shape[0]))
    with torch.no_grad():
        network(*inputs(plans, num_slices=3))
    assert seen == [3] and blocks == [3] and patches == [3]


def test_forward_sees_text_image_and_neighboring_slices(make_network):
    """Each input must matter: what a part ignores, no other test would miss."""
    network, plans = make_network(2, context_slices=2)
    images, organs = inputs(plans)
    with torch.no_grad():
        output = network(images, organs).logits
        for channel in range(images.shape[1]):
            changed = images.clone()
            changed[:, channel] += torch.randn(32, 32)
            assert not torch.allclose(network(changed, organs).logits, output, atol=1e-3), f"channel {channel}"
        vectors, is_sentence = network.text(organs)
        network.text.forward = lambda _organs: (vectors.flip(0), is_sentence)
        assert not torch.allclose(network(images, organs).logits, output, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"refiner_stride": 2, "semantic_decoder": False, "context_slices": 2},
        {"interaction_image_encoder": "clip"},
    ],
    ids=str,
)
def test_backward_reaches_every_parameter(make_network, changes):
    """Nothing of the nano network is dead weight: each parameter has a gradient that is not zero."""
    network, plans = make_network(3, num_channels=2, **changes)
    network.train()
    images, organs = inputs(plans)
    labels = torch.randint(0, 4, (2, 32, 32))
    compute_losses(network(images, organs), labels, weights=plans.training.loss)["total"].backward()
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert len(trainable) > 100
    without = {name for name, p in trainable.items() if p.grad is None or not p.grad.any()}
    assert without == set()


def test_an_organ_that_the_decoders_hold_for_absent_sinks_in_the_whole_slice(make_network):
    network, plans = make_network(2)
    asked = inputs(plans)
    with torch.no_grad():
        before = network(*asked)
        for head in (
            network.mask_decoder.decoder.pred_obj_score_head.layers[-1],
            network.semantic_decoder.presence[-1],
        ):
            head.bias -= 60
        after = network(*asked)
    assert torch.equal(before.logits[:, 0], after.logits[:, 0])
    log_odds = torch.stack([before.object_score_logits, before.semantic_object_score_logits])
    fall = (torch.nn.functional.logsigmoid(log_odds) - torch.nn.functional.logsigmoid(log_odds - 60)).mean(dim=0)
    expected = (before.logits[:, 1:] - network.fusion_gates[2] * fall[..., None, None]).detach()
    torch.testing.assert_close(after.logits[:, 1:], expected, atol=1e-3, rtol=1e-3)
