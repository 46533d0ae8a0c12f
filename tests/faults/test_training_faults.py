"""What goes wrong while a network trains: numbers, memory, processes."""

import dataclasses
import os
import signal

import pytest
import torch
from damage import flip_middle

from autoseg.distributed import local_ranks
from autoseg.network.weights.model_file import load_model
from autoseg.training import step as step_module
from autoseg.training import trainer
from autoseg.training.checkpointing import checkpoint_policy
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.logging.metrics_log import read_metrics


@pytest.fixture
def planned(tiny_run):
    return tiny_run()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leave out the picture, and let fewer bad steps be too many."""
    monkeypatch.setattr(checkpoint_policy, "plot_progress", lambda *_: None)
    monkeypatch.setattr(trainer, "MAX_BAD_STEPS", 3)


@pytest.fixture
def large_batches(tiny_run):
    """Give a run whose steps have 8 slices, which two cores share."""
    return tiny_run("training.batch_slices=8", "training.steps_per_epoch=6")


def spoil_batches(monkeypatch, steps):
    """Make the images of some steps NaN."""
    real = SliceSampler.make_batch

    def make_batch(self, step, *, part=None):
        batch = real(self, step, part=part)
        return dataclasses.replace(batch, images=batch.images * float("nan")) if step in steps else batch

    monkeypatch.setattr(SliceSampler, "make_batch", make_batch)


def assert_finite(fold):
    network, _ = load_model(fold / "model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in network.state_dict().values())
    saved = torch.load(fold / "resume.pt", weights_only=True)
    assert all(bool(value.isfinite().all()) for part in ("network", "averaged") for value in saved[part].values())
    return saved


@pytest.mark.fault("loss-not-finite")
def test_some_bad_steps_are_skipped_and_more_in_a_row_lead_back_once_at_a_lower_rate(planned, command, monkeypatch):
    spoil_batches(monkeypatch, {1, 4, 5, 6, 7, 8})
    outcome = command("train", planned, "--epochs", 1)
    assert outcome.code == 0, outcome.text
    assert "step 1: the loss is not finite; its batch is skipped" in outcome.text
    assert outcome.text.count("its batch is skipped") == 6
    # nothing was saved but the beginning
    assert "in 4 steps in a row; back to the weights of step 0 (resume.pt), from now on with 0.3 times" in outcome.text
    saved = assert_finite(planned / "fold_all")
    assert (saved["step"], saved["rate_factor"]) == (10, 0.3)
    rates = [record["learning_rate"] for record in read_metrics(planned / "fold_all" / "metrics.jsonl")]
    assert rates[-1] < 0.3 * rates[0]


@pytest.mark.fault("loss-not-finite")
def test_when_it_happens_again_the_error_names_the_cases_and_the_last_good_state_is_kept(
    tiny_run, command, monkeypatch
):
    run = tiny_run("training.steps_per_epoch=5")
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    with monkeypatch.context() as patch:
        spoil_batches(patch, set(range(6, 99)))
        outcome = command("train", run, "--epochs", 3)
        assert outcome.code == 2
        assert "TrainingError: the loss was not finite in 4 steps in a row, again" in outcome.text
        assert "had slices of good_" in outcome.text
        assert "Look at these scans; or plan again with a lower training.learning_rate" in outcome.text
        saved = assert_finite(run / "fold_all")
        # saved when the run went back, after steps 6 to 9; the rate stays low after a restart
        assert (saved["step"], saved["rate_factor"]) == (10, 0.3)
    outcome = command("train", run, "--epochs", 3)
    assert outcome.code == 0 and "continuing at step 10" in outcome.text
    assert assert_finite(run / "fold_all")["rate_factor"] == 0.3


@pytest.mark.fault("loss-not-finite")
def test_weights_that_go_bad_in_the_last_step_are_not_saved(planned, command, monkeypatch):
    """No loss is left that would tell of it."""
    real = trainer.train_step

    def step(state, *rest, **named):
        losses = real(state, *rest, **named)
        if state.step == 10:
            with torch.no_grad():
                for network in (state.network, state.averaged):
                    next(network.parameters()).view(-1)[0] = float("inf")
        return losses

    monkeypatch.setattr(trainer, "train_step", step)
    outcome = command("train", planned, "--epochs", 1)
    assert outcome.code == 0, outcome.text
    assert "back to the weights of step 0" in outcome.text
    assert_finite(planned / "fold_all")


def fill_memory(monkeypatch, times):
    real, left = step_module.accumulate_gradients, [times]

    def find(*arguments, **named):
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return real(*arguments, **named)

    monkeypatch.setattr(step_module, "accumulate_gradients", find)


@pytest.mark.fault("gpu-memory-full")
def test_full_memory_at_the_first_step_makes_smaller_micro_batches(large_batches, command, monkeypatch):
    assert command("train", large_batches, "--epochs", 1).code == 0
    whole = read_metrics(large_batches / "fold_all" / "metrics.jsonl")
    (large_batches / "fold_all").rename(large_batches / "undisturbed")
    fill_memory(monkeypatch, 2)
    outcome = command("train", large_batches, "--epochs", 1)
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("the memory of cpu is full") == 2
    assert "from now on with 2 slices at a time" in outcome.text
    pieces = read_metrics(large_batches / "fold_all" / "metrics.jsonl")
    for one, other in zip(pieces, whole, strict=True):
        assert one["losses"] == pytest.approx(other["losses"], rel=0.1)


@pytest.mark.fault("gpu-memory-full")
def test_where_one_slice_finds_no_room_the_error_says_what_to_do(large_batches, command, monkeypatch):
    fill_memory(monkeypatch, 99)
    outcome = command("train", large_batches, "--epochs", 1)
    assert outcome.code == 2
    assert "TrainingError: the memory of cpu is full even with one slice at a time: CUDA out of memory." in outcome.text
    assert "Plan again with a smaller network.image_size_px, network.backbone or training.batch_slices" in outcome.text
    assert (large_batches / "fold_all" / "resume.pt").exists()


@pytest.mark.fault("gpu-memory-full")
def test_full_memory_in_the_optimizer_leaves_no_half_moved_state(planned, command, monkeypatch):
    def full(*_args, **_named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    outcome = command("train", planned, "--epochs", 1)
    assert outcome.code == 2
    assert "the memory of cpu is full even with the network and its optimizer alone" in outcome.text
    assert torch.load(planned / "fold_all" / "resume.pt", weights_only=True)["step"] == 0


@pytest.mark.fault("dead-worker")
@pytest.mark.fault("rank-lost")
def test_a_rank_of_a_core_that_is_killed_ends_the_run_and_the_same_command_continues(
    large_batches, command, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    started, real, real_start = [], trainer.train_step, local_ranks._start
    monkeypatch.setattr(local_ranks, "_start", lambda *arguments: started.append(real_start(*arguments)) or started[-1])

    def step(state, *rest, **named):
        if state.step == 4:
            os.kill(started[0].pid, signal.SIGKILL)
        return real(state, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", step)
        outcome = command("train", large_batches, "--epochs", 1)
    assert outcome.code == 69, outcome.text
    assert "at step 4" in outcome.text and "The same command continues the run." in outcome.text
    outcome = command("train", large_batches, "--epochs", 1)
    assert outcome.code == 0 and "continuing at step 4" in outcome.text


@pytest.mark.fault("dead-worker")
def test_a_rank_that_cannot_be_started_is_an_error_that_says_what_to_do(large_batches, command, monkeypatch):
    def refuse(*_args, **_named):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(local_ranks.subprocess, "Popen", refuse)
    outcome = command("train", large_batches, "--epochs", 1)
    assert outcome.code == 2
    assert "Resource temporarily unavailable" in outcome.text and "OMP_NUM_THREADS=1" in outcome.text


@pytest.mark.fault("flipped-byte")
@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd"])
def test_a_flipped_byte_in_a_preprocessed_case_stops_training_before_its_first_step(planned, command, name):
    """It would decompress to other voxels, or to an error of the library's."""
    path = planned / "preprocessed" / "good_1" / name
    flip_middle(path)
    outcome = command("train", planned, "--epochs", 1)
    assert outcome.code == 4
    assert "1 of 3 preprocessed cases" in outcome.text and "Run autoseg_plan again" in outcome.text
    assert "good_1  a file does not have the SHA-256 in its case.json." in outcome.text
    assert not path.parent.exists() and not (planned / "fold_all" / "resume.pt").exists()
