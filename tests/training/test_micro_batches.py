"""A batch that is split into micro-batches, by the plan or because the memory is full."""

from dataclasses import replace

import pytest
import torch
from training_fixtures import make_context

from autoseg.errors import TrainingError
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.state import new_state
from autoseg.training.step import accumulate_gradients, num_micro_batches, train_step

CPU = torch.device("cpu")
KINDS = {"slices": {}, "clips": {"memory_slices": 2}, "point prompts": {"point_prompts": True}}


def mean_brightness(output, target):
    """A loss whose mean over micro-batches is that of the whole batch, unlike Dice."""
    return {"mean": output.logits.mean()}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def begun(request, tiny_plans, make_store, tmp_path):
    """Give a state, a batch of 6 slices, in clips of 2 where there is a memory, and the run."""
    plans = tiny_plans(2, network=request.param, training={"batch_slices": 6, "memory_clip_slices": 2})
    context = make_context(make_store(plans), tmp_path, plans, loss=mean_brightness)
    state = new_state(plans, device=CPU)
    sampler = SliceSampler(context.store, context.training_cases, plans=plans, cache_bytes=10**9)
    return state, sampler.make_batch(0), context


def gradients_of(state):
    return torch.cat([parameter.grad.flatten() for parameter in state.parameters])


def test_micro_batches_are_whole_clips_and_hold_the_batch(begun):
    _, batch, _ = begun
    parts = batch.split(6)
    assert [len(part.images) for part in parts] == [batch.clip_slices] * (6 // batch.clip_slices)
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert sum((part.case_ids for part in parts), ()) == batch.case_ids
    if batch.positions is not None:
        assert torch.equal(torch.cat([part.positions for part in parts]), batch.positions)
    assert len(batch.split(1)) == 1 and torch.equal(batch.split(1)[0].images, batch.images)


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_of_micro_batches_add_up_to_their_mean(begun, count):
    state, batch, context = begun
    state.network.eval()  # no dropout, whose random numbers would differ
    accumulate_gradients(state, batch, context)
    expected = gradients_of(state).clone()
    state.micro_batch_slices = 6 // count
    assert num_micro_batches(state, context) == count
    losses = accumulate_gradients(state, batch, context)
    assert set(losses) == {"mean", "total"}
    torch.testing.assert_close(gradients_of(state), expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()) + 1e-7)


def fill_memory(monkeypatch, network, *, largest, error, seen):
    """Raise wherever the network is given more slices than `largest`."""
    real = network.forward

    def forward(images, *rest, **named):
        seen.append(len(images))
        if len(images) > largest:
            raise error
        return real(images, *rest, **named)

    monkeypatch.setattr(network, "forward", forward)


def test_where_memory_is_full_half_as_many_slices_are_taken_from_then_on(begun, monkeypatch):
    state, batch, context = begun
    seen = []
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    fill_memory(monkeypatch, state.network, largest=2, error=error, seen=seen)
    assert train_step(state, batch, context) is not None
    assert state.micro_batch_slices <= 2 and state.step == 1
    seen.clear()
    assert train_step(state, batch, context) is not None
    assert max(seen) <= 2 and sum(seen) == 6


def test_where_one_slice_is_too_much_training_ends(begun, monkeypatch):
    state, batch, context = begun
    fill_memory(monkeypatch, state.network, largest=0, error=torch.OutOfMemoryError("full"), seen=[])
    with pytest.raises(TrainingError, match="image_size_px"):
        train_step(state, batch, context)


def test_gradient_accumulation_takes_more_slices_per_step_with_as_many_at_once(tiny_plans, make_store, tmp_path):
    plans = tiny_plans(2, training={"batch_slices": 2, "gradient_accumulation": 3})
    context = make_context(make_store(plans), tmp_path, plans)
    state = new_state(plans, device=CPU)
    assert (state.slices_per_step, state.micro_batch_slices, num_micro_batches(state, context)) == (6, 2, 3)
    two = replace(context, ranks=replace(context.ranks, world_size=2))
    assert num_micro_batches(state, two) == 2
