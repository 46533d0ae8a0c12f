"""A batch in pieces gives the gradients of the whole one."""

import pytest
import torch

from autoseg.errors import TrainingError
from autoseg.network import model
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.gradients import find_gradients, find_gradients_in_room, seed_dropout
from autoseg.training.micro_batches import Room, cut_into_pieces
from autoseg.training.state import new_state

CPU = torch.device("cpu")
KINDS = {
    "slices": {},
    "clips": {"memory_slices": 2},
    "clicks": {"point_prompts": True, "interaction_image_encoder": "clip"},
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def drawn(request, tiny_plans, make_store):
    """Give a state, its plan and a batch of 6 slices: in clips of 2 where there is a memory."""
    training = {"batch_slices": 6, "memory_clip_slices": 2}
    plans = tiny_plans(2, network=request.param, training=training)
    state = new_state(plans, device=CPU, needs_scaler=False)
    state.network.train()
    batch = SliceSampler(make_store(plans), ["case_0", "case_1"], plans=plans, cache_bytes=10**9).make_batch(0)
    return state, plans, batch


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """On a CPU that multiplies bfloat16 the refiner trains in it, and sums in another order differ by more."""
    monkeypatch.setattr(model, "convolution_precision", lambda _: torch.autocast("cpu", enabled=False))


def find(drawn, **named):
    state, plans, batch = drawn
    return find_gradients(state.network, state.parameters, batch, plan=plans.training, **named)


def assert_same(one, other):
    assert one.losses == pytest.approx(other.losses, rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in other.gradients)
    assert largest > 0.01
    for ours, theirs in zip(one.gradients, other.gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, largest))


@pytest.mark.parametrize("at_once", [1, 4])
def test_gradients_of_pieces_are_those_of_the_whole_batch(drawn, at_once):
    assert_same(find(drawn, room=Room(at_once)), find(drawn))


def test_pieces_that_were_averaged_would_have_others(drawn):
    """Dice sums over the batch: the test above would see a mean over the pieces."""
    state, plans, batch = drawn
    parts = [
        find_gradients(state.network, state.parameters, piece, plan=plans.training).losses["dice"]
        for piece in cut_into_pieces(batch, 2)
    ]
    assert sum(parts) / 3 != pytest.approx(find(drawn).losses["dice"], rel=1e-4)


def test_pieces_are_whole_clips(drawn):
    _, plans, batch = drawn
    pieces = cut_into_pieces(batch, 1)
    length = 2 if plans.network.memory_slices else 1
    assert [len(piece.images) for piece in pieces] == [length] * (6 // length)
    assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)
    assert sum((piece.case_ids for piece in pieces), ()) == batch.case_ids
    if length == 2:
        assert torch.equal(torch.cat([piece.positions for piece in pieces]), batch.positions)
    assert [len(piece.images) for piece in cut_into_pieces(batch, 4)] == [4, 2]


def fill_memory(monkeypatch, network, *, largest, error, seen):
    """Raise wherever the network is given more slices than `largest`."""
    real = network.forward

    def forward(images, *rest, **named):
        seen.append(len(images))
        if len(images) > largest:
            raise error
        return real(images, *rest, **named)

    monkeypatch.setattr(network, "forward", forward)


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")  # others: network/test_network_device.py


def test_where_memory_is_full_fewer_slices_are_taken_and_the_size_is_kept(drawn, monkeypatch, caplog):
    state, plans, batch = drawn
    whole = find(drawn)
    room, seen = Room(), []
    fill_memory(monkeypatch, state.network, largest=2, error=FULL, seen=seen)
    named = {"plan": plans.training, "room": room}
    found = find_gradients_in_room(state.network, state.parameters, batch, **named)
    assert_same(found, whole)
    tries = [3] if plans.network.memory_slices else [3, 1]  # 6 are too many, so are 3 unless that means a clip of 2
    assert room.slices == tries[-1]
    assert caplog.text.count("of a step's slices at a time from now on") == len(tries)
    caplog.clear()
    seen.clear()
    assert_same(find_gradients_in_room(state.network, state.parameters, batch, **named), whole)
    assert max(seen) <= 2 and caplog.text == ""


def test_where_one_slice_is_too_much_the_error_says_what_to_do(drawn, monkeypatch):
    state, plans, batch = drawn
    fill_memory(monkeypatch, state.network, largest=0, error=FULL, seen=[])
    one = "one clip" if plans.network.memory_slices else "one slice"
    with pytest.raises(TrainingError, match=f"the memory of cpu is full even with {one} at a time.*image_size_px"):
        find_gradients_in_room(state.network, state.parameters, batch, plan=plans.training, room=Room())


def test_another_error_is_not_taken_for_full_memory(drawn, monkeypatch):
    state, plans, batch = drawn
    fill_memory(monkeypatch, state.network, largest=0, error=RuntimeError("shapes do not match"), seen=[])
    with pytest.raises(RuntimeError, match="shapes do not match"):
        find_gradients_in_room(state.network, state.parameters, batch, plan=plans.training, room=Room())


def test_dropout_is_drawn_again_for_the_second_time_and_depends_on_the_step_alone(drawn):
    state, _, _ = drawn
    layer = state.network.image_encoder.hiera.blocks[0].mlp
    handle = layer.register_forward_hook(lambda _module, _input, output: torch.nn.functional.dropout(output, 0.5))

    def find_at(step, **named):
        seed_dropout(0, step=step, first_slice=0)
        return find(drawn, **named)

    try:
        assert find_at(3).losses == find_at(3).losses != find_at(4).losses
        pieces, again = (find_at(3, room=Room(2)) for _ in range(2))
        for one, other in zip(pieces.gradients, again.gradients, strict=True):
            assert torch.equal(one, other)
    finally:
        handle.remove()
