"""`autoseg_train --from`: models that are damaged, of something else, gone, or another than the fold began from."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from damage import flip_middle
from safetensors import safe_open
from safetensors.torch import save_file

from autoseg.config.plans import read_plans
from autoseg.network.build import build_network
from autoseg.network.weights.model_file import save_model
from autoseg.network.weights.model_format import METADATA_KEY, content_hash
from autoseg.training import trainer

pytestmark = pytest.mark.usefixtures("no_picture")


@pytest.fixture
def planned(tiny_run):
    return tiny_run("training.steps_per_epoch=2")


def new_model(run, path, *, seed=1):
    """Write a model of a run's own plan with new weights."""
    torch.manual_seed(seed)
    plans = read_plans(run / "plans.json")
    save_model(build_network(plans).eval(), plans, path)
    return path


@pytest.fixture
def model(planned, tmp_path):
    return new_model(planned, tmp_path / "model.safetensors")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path):
    path.write_bytes(b"")


def another_program(path):
    save_file({"weight": torch.zeros(2)}, path)


def another_version(path):
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()[METADATA_KEY])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    card["format_version"] = 6
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(card)})


def another_version_of_plan(path):
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()[METADATA_KEY])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    card["plans"] = card["plans"].replace('"version":1', '"version":2')
    card["sha256"] = content_hash(tensors, plans=card["plans"])
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(card)})


def a_pickle(path):
    path.write_bytes(pickle.dumps({"weights": Trap(path.with_name("trapped"))}))


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


DAMAGE = {
    flip_middle: "does not have the hash that it carries. Copy it again",
    cut: "is not a model of autoseg, or is damaged",
    empty: "is not a model of autoseg, or is damaged",
    another_program: "is not a model of autoseg. Give a model.safetensors that autoseg_train wrote",
    another_version: "has format 6; this autoseg reads 1. Install the autoseg that wrote it",
    another_version_of_plan: "carries no plan that this version can read; install the autoseg that wrote it",
    a_pickle: "is not a model of autoseg, or is damaged",
    Path.unlink: "there is no model.safetensors here",
}


@pytest.mark.fault("starting-model")
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_model_that_cannot_be_begun_from_is_an_error_before_any_work(planned, model, command, damage, monkeypatch):
    monkeypatch.setattr(trainer, "train_step", None)
    damage(model)
    outcome = command("train", planned, "--epochs", 1, "--from", model)
    assert outcome.code == 2 and str(model) in outcome.text and DAMAGE[damage] in outcome.text, outcome.text
    assert not list(planned.glob("fold_*")) and not model.with_name("trapped").exists()


@pytest.mark.fault("starting-model")
@pytest.mark.fault("pickle")
def test_a_checkpoint_in_the_place_of_a_model_is_never_opened(planned, tmp_path, command):
    a_pickle(tmp_path / "sam2.pt")
    outcome = command("train", planned, "--epochs", 1, "--from", tmp_path / "sam2.pt")
    assert outcome.code == 2 and "--set network.weights=FILE" in outcome.text
    assert not (tmp_path / "trapped").exists() and not list(planned.glob("fold_*"))
    pickle.loads((tmp_path / "sam2.pt").read_bytes())
    assert (tmp_path / "trapped").exists(), "the trap is none, so the test says nothing"


@pytest.mark.fault("other-start")
def test_another_model_on_a_fold_that_has_begun_is_an_error_with_both_ways_on(planned, model, command, tmp_path):
    assert command("train", planned, "--epochs", 1, "--from", model).code == 0
    fold = planned / "fold_all"
    kept = {path.name: path.read_bytes() for path in fold.iterdir() if path.is_file()}
    for other in (new_model(planned, tmp_path / "other.safetensors", seed=2), fold / "model.safetensors"):
        outcome = command("train", planned, "--epochs", 2, "--from", other)
        assert outcome.code == 2 and f"--from {other}: {fold} has begun from another model" in outcome.text
        assert f"Leave out --from to go on, or delete the folder {fold} to start again" in outcome.text
    assert {path.name: path.read_bytes() for path in fold.iterdir() if path.is_file()} == kept
    assert "continuing at step 2" in command("train", planned, "--epochs", 2, "--from", model).text


@pytest.mark.fault("other-start")
def test_a_fold_that_began_without_a_model_does_not_take_one_later(planned, model, command):
    assert command("train", planned, "--epochs", 1).code == 0
    outcome = command("train", planned, "--epochs", 2, "--from", model)
    assert outcome.code == 2 and "has begun already, and not from a model. Leave out --from to go on" in outcome.text


@pytest.mark.fault("other-start")
def test_a_model_that_is_gone_since_the_fold_began_is_a_warning(planned, model, command):
    assert command("train", planned, "--epochs", 1, "--from", model).code == 0
    model.unlink()
    outcome = command("train", planned, "--epochs", 2, "--from", model)
    assert outcome.code == 0 and "cannot be read; it is not needed" in outcome.text
