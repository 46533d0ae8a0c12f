import pytest
import torch

from autoseg.errors import OutputError, TrainingError
from autoseg.training.checkpointing import checkpoint_policy
from autoseg.training.checkpointing.checkpoint_policy import go_back, keep_at_a_stop, keep_on_the_way, keep_state
from autoseg.training.state import new_state

CPU = torch.device("cpu")


@pytest.fixture
def kept(tiny_plans, tmp_path):
    """Give a state that was saved at steps 10 and 20 with weights of these values, and is at step 25 with NaN."""
    plans = tiny_plans(1)
    state = new_state(plans, device=CPU, needs_scaler=False)
    for step in (10, 20):
        fill(state, float(step))
        state.step, state.seconds = step, 2.0 * step
        keep_state(state, plans, tmp_path)
    fill(state, float("nan"))
    state.step, state.seconds, state.bad_steps, state.best_dice = 25, 50.0, 21, 0.75
    return state, plans, tmp_path


def fill(state, value):
    with torch.no_grad():
        for network in (state.network, state.averaged):
            network.fusion_gates.fill_(value)


def saved(folder, name="resume.pt"):
    return torch.load(folder / name, weights_only=True)


def test_going_back_takes_the_older_state_and_leaves_steps_and_time_spent(kept, caplog):
    state, plans, folder = kept
    go_back(state, plans, folder, cases=["b", "a", "b"])
    assert state.network.fusion_gates.tolist() == state.averaged.fusion_gates.tolist() == [10.0] * 3
    assert (state.step, state.seconds, state.rate_factor, state.best_dice) == (25, 50.0, 0.3, 0.75)
    assert state.is_sound()
    assert "not finite in 21 steps in a row; back to the weights of step 10 (resume_previous.pt)" in caplog.text
    assert "slices of b, a." in caplog.text
    assert (saved(folder)["step"], saved(folder)["rate_factor"]) == (25, 0.3)
    assert saved(folder, "resume_previous.pt")["step"] == 10  # not the one that may hold the beginnings of the trouble


def test_going_back_works_without_a_state_before(kept):
    state, plans, folder = kept
    (folder / "resume_previous.pt").unlink()
    go_back(state, plans, folder, cases=["a"])
    assert state.network.fusion_gates.tolist() == [20.0] * 3


def test_a_second_time_is_an_error_that_names_the_cases(kept):
    state, plans, folder = kept
    state.rate_factor = 0.3
    cases = [f"case_{number}" for number in range(10)]
    with pytest.raises(TrainingError, match=r"in 21 steps in a row, again.*case_0, .*case_7 and 2 more.*learning_rate"):
        go_back(state, plans, folder, cases=cases)
    keep_at_a_stop(state, plans, folder)
    keep_on_the_way(state, plans, folder)
    assert saved(folder)["step"] == 20 and not (folder / "model.safetensors").exists()


def test_going_back_survives_a_full_disk(kept, monkeypatch, caplog):
    state, plans, folder = kept

    def full(*_args, **_named):
        raise OutputError("no room.")

    monkeypatch.setattr(checkpoint_policy, "save_state", full)
    go_back(state, plans, folder, cases=["a"])
    assert state.rate_factor == 0.3 and "step 25 is not saved: no room." in caplog.text


def test_a_state_is_saved_once_a_step(kept):
    state, plans, folder = kept
    go_back(state, plans, folder, cases=["a"])
    before = (folder / "resume.pt").stat().st_mtime_ns
    keep_state(state, plans, folder)
    assert (folder / "resume.pt").stat().st_mtime_ns == before
    state.step += 1
    keep_at_a_stop(state, plans, folder)
    assert saved(folder)["step"] == 26 and saved(folder, "resume_previous.pt")["step"] == 25


def test_a_picture_that_cannot_be_drawn_is_a_warning(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_policy, "plot_progress", full)
    checkpoint_policy.draw(tmp_path)
    assert "progress.png could not be drawn: [Errno 28] No space left on device" in caplog.text
