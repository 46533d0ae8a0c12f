import os
import signal

import pytest
import torch

from autoseg.training import step
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.state import new_state
from autoseg.training.step import train_step

CPU = torch.device("cpu")


@pytest.fixture
def begun(tiny_plans, make_store):
    plans = tiny_plans(2)
    state = new_state(plans, device=CPU, needs_scaler=False)
    state.network.train()
    return state, SliceSampler(make_store(plans), ["case_0"], plans=plans, cache_bytes=0).make_batch(0), plans


def test_ctrl_c_while_the_weights_move_is_raised_after_the_step_is_counted(begun, monkeypatch):
    state, batch, plans = begun
    real = step.update_average

    def update(*arguments, **named):
        os.kill(os.getpid(), signal.SIGINT)
        real(*arguments, **named)

    monkeypatch.setattr(step, "update_average", update)
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_step(state, batch, plans=plans)
    finally:
        signal.signal(signal.SIGINT, old)
    assert state.step == 1 and state.is_whole and state.is_sound()


def test_gradients_that_are_not_finite_move_nothing_though_the_loss_is(begun, monkeypatch):
    state, batch, plans = begun
    before = [parameter.clone() for parameter in state.parameters]
    real = step.add_parts

    def add(parts):
        whole = real(parts)
        whole.gradients[3].fill_(float("inf"))
        return whole

    monkeypatch.setattr(step, "add_parts", add)
    assert train_step(state, batch, plans=plans) is None
    assert (state.step, state.bad_steps) == (1, 1) and state.is_whole and not state.is_sound()
    assert all(torch.equal(one, other) for one, other in zip(before, state.parameters, strict=True))
    monkeypatch.undo()
    assert train_step(state, batch, plans=plans) is not None
    assert (state.step, state.bad_steps) == (2, 0) and state.is_sound()


def test_an_error_while_the_weights_move_leaves_a_state_that_is_not_kept(begun, monkeypatch):
    state, batch, plans = begun

    def fail(*_args, **_named):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(state.optimizers[-1], "step", fail)
    with pytest.raises(torch.OutOfMemoryError):
        train_step(state, batch, plans=plans)
    assert not state.is_whole and not state.is_sound()
