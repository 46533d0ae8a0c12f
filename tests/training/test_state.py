import shutil

import pytest
import torch
from torch import nn
from training_fixtures import make_context

from autoseg.config.overrides import apply_settings
from autoseg.errors import CheckpointError
from autoseg.training.checkpointing.checkpoints import load_state, save_state
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.state import fill_state, new_state, pack_state, update_average
from autoseg.training.step import train_step

CPU = torch.device("cpu")


def begin(plans):
    return new_state(plans, device=CPU)


def tensors_of(content):
    """Give every tensor inside nested containers, with its place."""
    if isinstance(content, torch.Tensor):
        return {(): content}
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return {(key, *rest): value for key, inner in items for rest, value in tensors_of(inner).items()}


def assert_same(one, other):
    for name in ("network", "averaged", "optimizers"):
        ours, theirs = (tensors_of(saved_parts(state, name)) for state in (one, other))
        assert ours.keys() == theirs.keys() and len(ours) > 100
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name


def saved_parts(state, name):
    part = getattr(state, name)
    return [one.state_dict() for one in part] if isinstance(part, tuple) else part.state_dict()


@pytest.fixture(scope="module")
def saved(tiny_plans, make_store, tmp_path_factory):
    """Train two steps and save."""
    plans = tiny_plans(2)
    state = begin(plans)
    context = make_context(make_store(plans), tmp_path_factory.mktemp("fold"), plans)
    sampler = SliceSampler(context.store, ["case_0"], plans=plans, cache_bytes=0)
    for step in range(2):
        train_step(state, sampler.make_batch(step), context)
    state.seconds = 12.5
    path = tmp_path_factory.mktemp("saved") / "resume.pt"
    save_state(state, plans, path)
    return state, plans, path


@pytest.fixture
def trained(saved, tmp_path):
    """Give the state, its plan, and a file of it that may be spoiled."""
    state, plans, path = saved
    return state, plans, shutil.copy(path, tmp_path / "resume.pt")


def test_new_state_draws_its_weights_from_the_plans_seed(tiny_plans):
    one, again, other = (begin(tiny_plans(2, training={"seed": seed})) for seed in (0, 0, 1))
    first = [next(iter(state.network.image_encoder.parameters())) for state in (one, again, other)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    ours, averaged = one.network.state_dict(), one.averaged.state_dict()
    assert all(torch.equal(value, averaged[key]) for key, value in ours.items())
    assert not any(p.requires_grad for p in one.averaged.parameters()) and not one.averaged.training


def test_round_trip_is_exact(trained):
    state, plans, path = trained
    fresh = begin(plans)
    load_state(fresh, plans, path)
    assert_same(state, fresh)
    assert (fresh.step, fresh.seconds) == (2, 12.5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("network.refiner_stride=2", "network.refiner_stride: 1 there, 2 now"),
        ("training.learning_rate=0.5", "training.learning_rate: 0.001 there, 0.5 now"),
        ("data.crop_to_nonzero=false", "data.crop_to_nonzero: True there, False now"),
        ("network.text.max_tokens=32", "network.text.max_tokens"),
    ],
)
def test_state_of_another_plan_is_refused_and_the_difference_named(trained, setting, message):
    state, plans, path = trained
    other = apply_settings(plans, [setting])
    with pytest.raises(CheckpointError, match=message):
        load_state(state, other, path)


def test_state_of_a_plan_that_differs_in_inference_and_words_alone_is_taken(trained):
    _, plans, path = trained
    other = apply_settings(plans, ["inference.window_overlap=0.1"])
    assert other != plans
    fresh = begin(other)
    load_state(fresh, other, path)
    assert fresh.step == 2


def test_state_of_other_organs_is_refused_and_the_organ_named(trained):
    state, plans, path = trained
    first, second = plans.data.organs
    lung = second.model_copy(update={"name": "lung"})
    other = plans.model_copy(update={"data": plans.data.model_copy(update={"organs": (first, lung)})})
    with pytest.raises(CheckpointError, match=r"data.organs.1.name: organ 1 there, lung now"):
        load_state(state, other, path)
    fewer = plans.model_copy(update={"data": plans.data.model_copy(update={"organs": (first,)})})
    with pytest.raises(CheckpointError, match=r"data.organs: 2 there, 1 now"):
        load_state(state, fewer, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2; this autoseg reads 1"),
        ({"version": "x" * 99}, "has version 'x+"),
        ({"plans": "[]"}, "another plan|no plan"),
        ({"plans": "{"}, "it carries no plan"),
        ({"plans": 3}, "it carries no plan"),
        ({"optimizers": None}, "does not fit"),
        ({"network": 1}, "does not fit"),
    ],
)
def test_state_of_another_version_is_refused(saved, changes, message):
    state, plans, path = saved
    with pytest.raises(CheckpointError, match=message):
        fill_state(begin(plans), plans, {**pack_state(state, plans), **changes}, source=path)


def test_a_state_is_sound_only_between_two_good_steps_with_finite_weights(tiny_plans):
    state = begin(tiny_plans(2))
    assert state.is_sound()
    state.bad_steps = 1
    assert not state.is_sound() and state.is_finite()
    state.bad_steps, state.is_whole = 0, False
    assert not state.is_sound()
    state.is_whole = True
    with torch.no_grad():
        next(state.averaged.parameters()).view(-1)[-1] = float("inf")
    assert not state.is_sound() and not state.is_finite()


@pytest.mark.parametrize(("step", "least", "most"), [(0, 0.5, 1.0), (5, 0.05, 0.9), (10_000, 0.00999, 0.01001)])
def test_update_average_moves_fast_at_first_and_as_the_plan_says_later(step, least, most):
    """Average 0, network 1, decay 0.99: what one update gives is 1 less the decay of that step."""
    averaged, network = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(averaged.weight)
    nn.init.ones_(network.weight)
    update_average(averaged.requires_grad_(False), network, decay=0.99, step=step)
    assert least <= averaged.weight.item() <= most
