import dataclasses
import shutil

import numpy as np
import pytest
import torch
from training_fixtures import make_context

from autoseg.network.sam2_modules import build_hiera
from autoseg.network.weights.model_file import load_model
from autoseg.system.atomic_files import read_json
from autoseg.training import trainer
from autoseg.training.checkpointing import checkpoint_policy
from autoseg.training.context import Length
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.logging.metrics_log import read_metrics
from autoseg.training.state import new_state
from autoseg.training.step import train_step
from autoseg.training.trainer import train_fold

CPU = torch.device("cpu")


def train(context, length=None):
    return train_fold(context if length is None else dataclasses.replace(context, length=length))


def weights_of(state):
    return {
        f"{name}.{key}": value
        for name in ("network", "averaged")
        for key, value in getattr(state, name).state_dict().items()
    }


@pytest.fixture(scope="module")
def plans(tiny_plans):
    return tiny_plans(2, training={"batch_slices": 2, "steps_per_epoch": 2})


@pytest.fixture(scope="module")
def done(plans, make_store, tmp_path_factory):
    """Train four steps without disturbance: store, fold and state, for looking only."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = make_store(plans, folder=folder / "preprocessed")
    fold = make_context(store, folder / "fold", plans)
    return store, fold, train(fold)


@pytest.fixture
def copied(done, tmp_path):
    """Give the finished fold's folder as a copy that may be changed."""
    _, fold, state = done
    shutil.copytree(fold.folder, tmp_path / "copy")
    return dataclasses.replace(fold, folder=tmp_path / "copy"), state


@pytest.fixture
def no_picture(monkeypatch):
    """Leave out the picture, which takes as long as the training here."""
    monkeypatch.setattr(checkpoint_policy, "plot_progress", lambda *_: None)


def test_training_writes_model_state_metrics_and_picture(done, plans):
    _, fold, state = done
    assert state.step == 4
    assert {path.name for path in fold.folder.iterdir()} == {
        "model.safetensors",
        "model_best.safetensors",
        "resume.pt",
        "resume_previous.pt",
        "metrics.jsonl",
        "progress.png",
    }
    records = read_metrics(fold.folder / "metrics.jsonl")
    assert [record["step"] for record in records] == [2, 4]
    assert all(np.isfinite(record["losses"]["total"]) for record in records)
    looks = [record["validation"] for record in records if record.get("validation")]
    assert looks and looks[0]["dice"].keys() == {"organ 0", "organ 1"} and looks[0]["cases"] == 1
    network, model_plans = load_model(fold.folder / "model.safetensors")
    assert model_plans == plans
    averaged = state.averaged.state_dict()
    loaded = {key: value for key, value in network.state_dict().items() if not key.startswith("text.")}
    assert len(loaded) > 100
    assert all(torch.equal(value, averaged[key]) for key, value in loaded.items())


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("stop_at", [1, 3])
def test_training_stopped_at_any_step_and_continued_equals_the_undisturbed_run(
    done, plans, tmp_path, monkeypatch, stop_at
):
    store, _, expected = done
    fold = make_context(store, tmp_path / "stopped", plans)
    steps = []

    def stop(state, *rest, **named):
        if len(steps) == stop_at:
            raise KeyboardInterrupt
        steps.append(state.step)
        return train_step(state, *rest, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "train_step", stop)
        train(fold)
    assert not (fold.folder / "model.safetensors").exists()
    state = train(fold)
    assert state.step == 4
    given, wanted = weights_of(state), weights_of(expected)
    assert [key for key in wanted if not torch.equal(given[key], wanted[key])] == []
    models = [folder / "model.safetensors" for folder in (fold.folder, done[1].folder)]
    assert models[0].read_bytes() == models[1].read_bytes()
    assert [record["step"] for record in read_metrics(fold.folder / "metrics.jsonl")][-1] == 4


@pytest.mark.usefixtures("no_picture")
def test_training_killed_between_two_saves_goes_back_to_the_last_and_equals_the_undisturbed_run(
    done, plans, tmp_path, monkeypatch
):
    """A kill leaves the state of the last save and the metrics of later epochs: here the folder as it was then."""
    store, _, expected = done
    fold = make_context(store, tmp_path / "running", plans)
    killed = tmp_path / "killed"
    real = trainer.append_metrics

    def append(path, record):
        real(path, record)
        if record["step"] == 4:
            shutil.copytree(fold.folder, killed)

    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "append_metrics", append)
        train(fold)
    assert [record["step"] for record in read_metrics(killed / "metrics.jsonl")] == [2, 4]
    assert torch.load(killed / "resume.pt", weights_only=True)["step"] == 2
    state = train(dataclasses.replace(fold, folder=killed))
    given, wanted = weights_of(state), weights_of(expected)
    assert [key for key in wanted if not torch.equal(given[key], wanted[key])] == []
    assert [record["step"] for record in read_metrics(killed / "metrics.jsonl")] == [2, 4]
    assert (killed / "model.safetensors").read_bytes() == (done[1].folder / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("no_picture")
def test_training_by_the_clock_stops_when_its_time_is_over(plans, make_store, tmp_path):
    fold = make_context(make_store(plans), tmp_path / "fold", plans, validation=())
    state = train(fold, Length(steps=10**9, seconds=0.5))
    assert 0.5 <= state.seconds < 20 and state.step >= 1
    assert read_metrics(fold.folder / "metrics.jsonl")[-1]["validation"] is None


def test_a_step_whose_loss_is_not_finite_updates_nothing_and_the_next_one_does(plans, make_store, tmp_path):
    context = make_context(make_store(plans), tmp_path, plans)
    state = new_state(plans, device=CPU)
    batch = SliceSampler(make_store(plans), ["case_0"], plans=plans, cache_bytes=0).make_batch(0)
    before = {key: value.clone() for key, value in weights_of(state).items()}
    bad = dataclasses.replace(batch, images=torch.full_like(batch.images, float("nan")))
    assert train_step(state, bad, context) is None
    assert all(torch.equal(value, before[key]) for key, value in weights_of(state).items())
    assert not any(optimizer.state for optimizer in state.optimizers)
    assert np.isfinite(train_step(state, batch, context)["total"])
    assert not torch.equal(state.network.fusion_gates, before["network.fusion_gates"])
    assert all(bool(value.isfinite().all()) for value in weights_of(state).values())


@pytest.mark.usefixtures("no_picture")
def test_only_what_a_checkpoint_held_is_pretrained_also_when_a_run_goes_on(tiny_plans, make_store, tmp_path):
    """A checkpoint of Hiera alone: the neck is new, and moves from the first step on."""
    torch.manual_seed(9)
    hiera = build_hiera("nano").state_dict()
    path = tmp_path / "sam2.pt"
    torch.save({"model": {f"image_encoder.trunk.{key}": value for key, value in hiera.items()}}, path)
    training = {"batch_slices": 2, "steps_per_epoch": 2, "freeze_fraction": 0.5}
    plans = tiny_plans(2, network={"weights": str(path)}, training=training)
    fold = make_context(make_store(plans), tmp_path / "fold", plans, validation=())
    first = train(fold, Length(steps=2))
    record = read_json(fold.folder / "weights.json")
    assert record["file"] == "sam2.pt" and len(record["loaded"]) == len(hiera)
    assert {name.split(".")[1] for name in record["parameters"]} == {"hiera"}
    groups = [(group["frozen_until"], len(group["params"])) for group in first.optimizers[0].param_groups]
    assert sum(count for frozen, count in groups if frozen == 0.5) == len(record["parameters"])
    moved = first.network.image_encoder.hiera.state_dict()
    assert any(not torch.equal(moved[key], hiera[key]) for key in hiera)
    path.unlink()
    again = train(fold, Length(steps=4))
    assert again.step == 4 and read_json(fold.folder / "weights.json") == record
    assert [len(g["params"]) for g in again.optimizers[0].param_groups] == [count for _, count in groups]
