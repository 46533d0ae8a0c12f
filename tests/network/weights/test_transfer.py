"""A finished model's weights in a new network: what the new one says, and what is reported of each tensor."""

import pytest
import torch

from autoseg.config.overrides import apply_settings
from autoseg.errors import CheckpointError
from autoseg.network.build import build_network
from autoseg.network.weights.model_file import load_model, read_model_tensors, save_model
from autoseg.network.weights.transfer import ModelWeights, load_model_weights

TABLE = "text.tower.transformer.token_embedding.weight"


@pytest.fixture
def finish(make_network, tmp_path):
    """Make a model file from a plan's parts: ({..}) -> its network, plan and a loader of its weights."""

    def make(num_organs=2, *, num_channels=1, **network):
        built, plans = make_network(num_organs, num_channels=num_channels, **network)
        path = tmp_path / "model.safetensors"
        save_model(built, plans, path)
        return path, plans

    return make


def begin(path, plans, *, rows=None, channels=None):
    """Build a new network and fill it; by default the plan's rows of text and channels are the model's first ones."""
    [tensors], there = read_model_tensors(path)
    rows = rows or [k if k < len(there.data.text_rows) else None for k in range(len(plans.data.text_rows))]
    channels = channels or [c if c < len(there.data.channels) else None for c in range(len(plans.data.channels))]
    network = build_network(plans).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    return network, load_model_weights(network, ModelWeights(tensors, there, rows, channels), plans), before


def logits_of(network, images, organs=(0, 1)):
    with torch.no_grad():
        return network(images, torch.tensor(organs)).logits


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"text": {"model": "learned"}},
        {"interaction_image_encoder": "clip", "point_prompts": True, "memory_slices": 2},
        {"refiner_stride": 2, "prompt_tokens": 3, "semantic_decoder": False},
    ],
    ids=["plain", "learned text", "all parts", "other parts"],
)
def test_under_the_same_plan_the_new_network_says_what_the_model_says_to_the_bit(finish, network):
    path, plans = finish(2, **network)
    new, report, before = begin(path, plans)
    assert (report.adapted, report.new, report.left_over) == ((), (), ())
    own = {key for key in before if key != "image_tower.config"}
    assert set(report.taken) == own and len(own) > 100
    assert report.known_words == report.words == (0 if network.get("text") else 8)
    images = torch.randn(2, 3, 32, 32)
    model, _ = load_model(path)
    assert torch.equal(logits_of(new, images), logits_of(model, images))


def test_another_image_size_window_and_more_organs_take_every_weight(finish, tiny_plans):
    path, _ = finish(2)
    plans = tiny_plans(3, network={"image_size_px": 64, "window_rows_px": 64, "window_columns_px": 48})
    new, report, _ = begin(path, plans)
    assert report.new == report.left_over == () and set(report.adapted) == {TABLE}  # the third organ's words
    model, _ = load_model(path)
    torch.testing.assert_close(new.text(torch.arange(2))[0], model.text(torch.arange(2))[0])
    assert logits_of(new, torch.randn(2, 3, 64, 48), (0, 1, 2)).shape == (2, 4, 64, 48)


def test_words_keep_their_rows_wherever_they_stand_in_the_new_vocabulary(finish, tiny_plans):
    path, plans = finish(3)
    fewer = plans.data.organs[1:2]  # "the right organ", "it lies right of all"
    spoken = plans.data.organs[0].model_copy(update={"sentences": ("an organ all of ears",)})
    other = plans.model_copy(update={"data": plans.data.model_copy(update={"organs": (*fewer, spoken)})})
    new, report, before = begin(path, other, rows=[1, None])
    model, _ = load_model(path)
    torch.testing.assert_close(new.text(torch.tensor([0]))[0], model.text(torch.tensor([1]))[0])
    assert report.words - report.known_words == 2 and report.known_words == 7  # "an", "ears" are new
    kept = (new.state_dict()[TABLE] == before[TABLE]).all(dim=1)
    assert kept.sum() == 2


def test_learned_vectors_follow_their_organs_and_new_ones_are_drawn(finish, tiny_plans):
    path, _ = finish(3, text={"model": "learned"})
    plans = tiny_plans(3, network={"text": {"model": "learned"}})
    new, report, before = begin(path, plans, rows=[2, None, 0])
    model, _ = load_model(path)
    vectors = new.text.vectors.detach()
    assert torch.equal(vectors[[0, 2]], model.text.vectors[[2, 0]])
    assert torch.equal(vectors[1], before["text.vectors"][1]) and report.adapted == ("text.vectors",)
    strangers, report, before = begin(path, plans, rows=[None] * 3)
    assert torch.equal(strangers.text.vectors, before["text.vectors"])
    assert report.new == report.left_over == ("text.vectors",)


def test_a_new_channel_changes_nothing_at_first_and_the_known_one_is_read_in_its_place(finish, tiny_plans):
    path, plans = finish(2)
    other = tiny_plans(2, num_channels=2)
    new, report, _ = begin(path, other, channels=[None, 0])
    assert set(report.adapted) == {"stem.weight", "stem.bias", "refiner.down.0.layers.0.weight"}
    assert report.new == report.left_over == ()
    image, noise = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    both = torch.stack([noise, image], dim=2).flatten(1, 2)  # (B, N * C, ..)
    model, _ = load_model(path)
    torch.testing.assert_close(logits_of(new, both), logits_of(model, image))
    assert plans.data.channels != other.data.channels
    new.train()
    new(both, torch.arange(2)).logits.square().mean().backward()
    assert new.stem.weight.grad[:, 0].abs().sum() > 0, "the new channel can be learned"


@pytest.mark.parametrize(("channels", "of_three"), [([2], 2), ([0], 0)])
def test_a_channel_that_is_gone_is_as_one_of_zeros(finish, tiny_plans, channels, of_three):
    path, _ = finish(2, num_channels=3)
    new, report, _ = begin(path, tiny_plans(2), channels=channels)
    assert report.new == report.left_over == () and len(report.adapted) == 3
    image = torch.randn(2, 3, 32, 32)
    three = torch.zeros(2, 3, 3, 32, 32)
    three[:, :, of_three] = image
    model, _ = load_model(path)
    encoders = [
        one.image_encoder.embed(one.stem(inputs)) for one, inputs in ((new, image), (model, three.flatten(1, 2)))
    ]
    torch.testing.assert_close(encoders[0][:, 1:-1, 1:-1], encoders[1][:, 1:-1, 1:-1])
    blocks = [one.refiner.down[0](inputs) for one, inputs in ((new, image), (model, three.flatten(1, 2)))]
    torch.testing.assert_close(blocks[0], blocks[1])


def test_more_neighbors_change_nothing_at_first_and_fewer_leave_the_outer_ones_out(finish, tiny_plans):
    path, _ = finish(2, num_channels=2, refiner_stride=2)
    new, report, _ = begin(path, tiny_plans(2, num_channels=2, network={"context_slices": 2, "refiner_stride": 2}))
    assert report.adapted == ("refiner.down.0.layers.0.weight",) and report.new == report.left_over == ()
    images = torch.randn(1, 5, 2, 32, 32)
    model, _ = load_model(path)
    torch.testing.assert_close(logits_of(new, images.flatten(1, 2)), logits_of(model, images[:, 1:4].flatten(1, 2)))
    path, _ = finish(2, context_slices=2)
    new, _, _ = begin(path, tiny_plans(2))
    model, _ = load_model(path)
    padded = torch.nn.functional.pad(images[:, 1:4, 0], (0, 0, 0, 0, 1, 1))
    torch.testing.assert_close(new.refiner.down[0](images[:, 1:4, 0]), model.refiner.down[0](padded))


def test_another_stride_of_the_refiner_reads_other_channels_even_where_their_number_is_the_same(finish, tiny_plans):
    path, _ = finish(1, num_channels=4)
    _, report, _ = begin(path, tiny_plans(1, network={"refiner_stride": 2}))
    assert "refiner.down.0.layers.0.weight" in report.new and "refiner.down.0.layers.0.weight" in report.left_over


def test_another_backbone_is_new_as_a_whole_and_what_follows_is_taken(finish, tiny_plans):
    """Tiny and small share the shapes of most blocks."""
    path, _ = finish(1, backbone="tiny", refiner_channels=[4, 8])
    plans = tiny_plans(1, num_channels=2, network={"backbone": "small", "refiner_channels": [4, 8]})
    _, report, _ = begin(path, plans)
    new = {name for name in report.new}
    assert not any(name.startswith(("image_encoder.", "stem.", "interaction.image_in.")) for name in report.taken)
    assert {name.split(".")[0] for name in new} == {"image_encoder", "stem", "interaction"}
    assert "refiner.bottleneck.layers.0.weight" in report.taken and "mask_decoder.semantic_token" in report.taken


def test_prompt_tokens_refiner_stages_and_parts_that_differ_are_reported(finish, tiny_plans):
    path, _ = finish(1, memory_slices=2)
    plans = tiny_plans(1, network={"prompt_tokens": 3, "refiner_channels": [4, 8, 16], "point_prompts": True})
    new, report, before = begin(path, plans)
    model, _ = load_model(path)
    queries = "prompt_projector.queries.weight"
    assert queries in report.adapted
    assert torch.equal(new.state_dict()[queries][:32], model.state_dict()[queries])
    assert torch.equal(new.state_dict()[queries][32:], before[queries][32:])
    assert {name.split(".")[0] for name in report.left_over} == {"memory", "refiner"}
    assert "point_prompt_encoder.dense.weight" in report.new and "refiner.down.1.layers.0.weight" in report.new
    code = "point_prompt_encoder.encoder.pe_layer.positional_encoding_gaussian_matrix"
    assert code in report.taken and torch.equal(
        new.state_dict()[code], model.position.positional_encoding_gaussian_matrix
    )
    for name in report.new:
        assert torch.equal(new.state_dict()[name], before[name]), name


def test_clips_code_of_places_is_interpolated_to_another_square(finish, tiny_plans):
    path, _ = finish(1, interaction_image_encoder="clip")
    new, report, _ = begin(path, tiny_plans(1, network={"interaction_image_encoder": "clip", "image_size_px": 64}))
    assert report.adapted == ("image_tower.visual.positional_embedding",) and report.new == report.left_over == ()
    old = load_model(path)[0].image_tower.visual.positional_embedding  # 1 + 4 * 4 rows
    given = new.image_tower.visual.positional_embedding
    assert given.shape == (1 + 8 * 8, 64) and torch.equal(given[0], old[0])
    torch.testing.assert_close(given[1:].mean(dim=0), old[1:].mean(dim=0), atol=0.05, rtol=0.1)


def test_what_is_read_of_a_frozen_tower_is_taken_with_the_same_file_alone(tiny_plans, small_clip, tmp_path):
    _, weights = small_clip
    plans = tiny_plans(2, network={"text": {"model": "small-clip", "weights": str(weights)}})
    save_model(build_network(plans).eval(), plans, tmp_path / "m.safetensors")
    (tmp_path / "elsewhere").mkdir()
    moved = weights.rename(tmp_path / "elsewhere" / weights.name)
    network, report, _ = begin(tmp_path / "m.safetensors", apply_settings(plans, [f"network.text.weights={moved}"]))
    assert report.new == report.left_over == () and "text.projection.1.weight" in report.taken
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(logits_of(network, images), logits_of(load_model(tmp_path / "m.safetensors")[0], images))
    other = moved.rename(moved.with_name("other.pt"))
    _, report, _ = begin(tmp_path / "m.safetensors", apply_settings(plans, [f"network.text.weights={other}"]))
    assert "text.projection.1.weight" in report.new and "text.projection.1.weight" in report.left_over


def test_weights_that_contradict_their_plan_are_refused_and_nothing_is_changed(finish):
    path, plans = finish(2, num_channels=2)
    [tensors], _ = read_model_tensors(path)
    tensors["refiner.down.0.layers.0.weight"] = torch.zeros(4, 7, 3, 3)
    network = build_network(plans)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match="do not fit the plan inside it"):
        load_model_weights(network, ModelWeights(tensors, plans, [0, 1], [0, 1]), plans)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
