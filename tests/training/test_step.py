import os
import signal

import pytest
import torch
from training_fixtures import make_context

from autoseg.training import step
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.state import new_state
from autoseg.training.step import train_step

CPU = torch.device("cpu")


@pytest.fixture
def begun(tiny_plans, make_store, tmp_path):
    plans = tiny_plans(2)
    state = new_state(plans, device=CPU)
    state.network.train()
    store = make_store(plans)
    batch = SliceSampler(store, ["case_0"], plans=plans, cache_bytes=0).make_batch(0)
    return state, batch, make_context(store, tmp_path, plans)


def test_ctrl_c_while_the_weights_move_is_raised_after_the_step_is_counted(begun, monkeypatch):
    state, batch, context = begun
    real = step.update_average

    def update(*arguments, **named):
        os.kill(os.getpid(), signal.SIGINT)
        real(*arguments, **named)

    monkeypatch.setattr(step, "update_average", update)
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_step(state, batch, context)
    finally:
        signal.signal(signal.SIGINT, old)
    assert state.step == 1 and state.is_whole and state.is_sound()


def test_gradients_that_are_not_finite_move_nothing_though_the_loss_is(begun, monkeypatch):
    state, batch, context = begun
    before = [parameter.clone() for parameter in state.parameters]
    real = step.average_over_ranks

    def average(state, losses, ranks):
        state.parameters[3].grad.fill_(float("inf"))
        return real(state, losses, ranks)

    monkeypatch.setattr(step, "average_over_ranks", average)
    assert train_step(state, batch, context) is None
    assert (state.step, state.bad_steps) == (1, 1) and state.is_whole and not state.is_sound()
    assert all(torch.equal(one, other) for one, other in zip(before, state.parameters, strict=True))
    monkeypatch.undo()
    assert train_step(state, batch, context) is not None
    assert (state.step, state.bad_steps) == (2, 0) and state.is_sound()


def test_an_error_while_the_weights_move_leaves_a_state_that_is_not_kept(begun, monkeypatch):
    state, batch, context = begun

    def fail(*_args, **_named):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(state.optimizers[-1], "step", fail)
    with pytest.raises(torch.OutOfMemoryError):
        train_step(state, batch, context)
    assert not state.is_whole and not state.is_sound()
