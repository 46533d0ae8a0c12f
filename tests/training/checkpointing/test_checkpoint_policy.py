import pytest
import torch
from training_fixtures import make_context

from autoseg.errors import OutputError, TrainingError
from autoseg.training.checkpointing import checkpoint_policy
from autoseg.training.checkpointing.checkpoint_policy import (
    roll_back,
    save_at_interruption,
    save_periodically,
    save_state_if_new,
)
from autoseg.training.state import new_state

CPU = torch.device("cpu")


@pytest.fixture
def kept(tiny_plans, make_store, tmp_path):
    """Give a state that was saved at steps 10 and 20 with weights of these values, and is at step 25 with NaN."""
    plans = tiny_plans(1)
    context = make_context(make_store(tiny_plans(2)), tmp_path, plans)
    state = new_state(plans, device=CPU)
    for step in (10, 20):
        fill(state, float(step))
        state.step, state.seconds = step, 2.0 * step
        save_state_if_new(state, context)
    fill(state, float("nan"))
    state.step, state.seconds, state.bad_steps, state.best_dice = 25, 50.0, 21, 0.75
    return state, context, tmp_path


def fill(state, value):
    with torch.no_grad():
        for network in (state.network, state.averaged):
            network.fusion_gates.fill_(value)


def saved(folder, name="resume.pt"):
    return torch.load(folder / name, weights_only=True)


def test_going_back_takes_the_older_state_and_leaves_steps_and_time_spent(kept, caplog):
    state, context, folder = kept
    roll_back(state, context, cases=["b", "a", "b"])
    assert state.network.fusion_gates.tolist() == state.averaged.fusion_gates.tolist() == [10.0] * 3
    assert (state.step, state.seconds, state.rate_factor, state.best_dice) == (25, 50.0, 0.3, 0.75)
    assert state.is_sound()
    assert "not finite in 21 steps in a row; back to the weights of step 10 (resume_previous.pt)" in caplog.text
    assert "slices of b, a." in caplog.text
    assert (saved(folder)["step"], saved(folder)["rate_factor"]) == (25, 0.3)
    assert saved(folder, "resume_previous.pt")["step"] == 10  # not the one that may hold the beginnings of the trouble


def test_a_second_time_is_an_error_that_names_the_cases(kept):
    state, context, folder = kept
    state.rate_factor = 0.3
    cases = [f"case_{number}" for number in range(10)]
    with pytest.raises(TrainingError, match=r"in 21 steps in a row, again.*case_0, .*case_7 and 2 more.*learning_rate"):
        roll_back(state, context, cases=cases)
    save_at_interruption(KeyboardInterrupt(), state, context)
    save_periodically(state, context)
    assert saved(folder)["step"] == 20 and not (folder / "model.safetensors").exists()


def test_going_back_survives_a_full_disk(kept, monkeypatch, caplog):
    state, context, _folder = kept

    def full(*_args, **_named):
        raise OutputError("no room.")

    monkeypatch.setattr(checkpoint_policy, "save_state", full)
    roll_back(state, context, cases=["a"])
    assert state.rate_factor == 0.3 and "step 25 is not saved: no room." in caplog.text


def test_a_state_is_saved_once_a_step(kept):
    state, context, folder = kept
    roll_back(state, context, cases=["a"])
    before = (folder / "resume.pt").stat().st_mtime_ns
    save_state_if_new(state, context)
    assert (folder / "resume.pt").stat().st_mtime_ns == before
    state.step += 1
    save_at_interruption(KeyboardInterrupt(), state, context)
    assert saved(folder)["step"] == 26 and saved(folder, "resume_previous.pt")["step"] == 25
