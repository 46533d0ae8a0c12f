from types import SimpleNamespace

import pytest
import torch
from training_fixtures import make_context

from autoseg.errors import OutputError
from autoseg.network.weights.model_file import load_model
from autoseg.training.folds import interleave_datasets
from autoseg.training.state import new_state
from autoseg.training.validation import periodic_validation, validate_case
from autoseg.training.validation.periodic_validation import (
    BEST_MODEL_FILE_NAME,
    ValidationSchedule,
    choose_validation_cases,
)

CPU = torch.device("cpu")


@pytest.fixture
def watched(tiny_plans, make_store, tmp_path):
    plans = tiny_plans(2)
    context = make_context(make_store(plans), tmp_path, plans, validation=("case_1", "case_2"))
    return new_state(plans, device=CPU), context


def look(watched, monkeypatch, dice):
    state, fold = watched
    monkeypatch.setattr(
        periodic_validation, "validate_case", lambda *_args, **_named: {"organ 0": dice, "organ 1": None}
    )
    return ValidationSchedule(progress=0.0).measure(state, fold)


def test_the_best_model_on_the_way_is_kept(watched, monkeypatch):
    state, fold = watched
    path = fold.folder / BEST_MODEL_FILE_NAME
    kept = []
    for dice in (0.25, 0.5, 0.5, 0.375):
        with torch.no_grad():
            state.averaged.fusion_gates.fill_(dice)
        kept.append(look(watched, monkeypatch, dice)["is_best"])
    assert kept == [True, True, False, False]
    assert state.best_dice == 0.5
    network, _ = load_model(path)
    assert network.fusion_gates.tolist() == [0.5, 0.5, 0.5]


def test_weights_that_are_not_finite_are_never_the_best(watched, monkeypatch):
    state, fold = watched
    with torch.no_grad():
        state.averaged.fusion_gates.fill_(float("nan"))
    assert not look(watched, monkeypatch, 0.9)["is_best"]
    assert list(fold.folder.iterdir()) == []


def test_a_full_disk_costs_the_best_model_and_nothing_else(watched, monkeypatch, caplog):
    def full(*_):
        raise OutputError("model_best.safetensors cannot be written: no room.")

    monkeypatch.setattr(periodic_validation, "save_model", full)
    assert not look(watched, monkeypatch, 0.5)["is_best"]
    assert "the best model so far is not kept: model_best.safetensors cannot be written" in caplog.text
    monkeypatch.undo()
    assert look(watched, monkeypatch, 0.5)["is_best"]  # the next look keeps it


def test_full_memory_at_a_look_takes_fewer_slices_and_then_leaves_it_out(watched, monkeypatch, caplog):
    state, fold = watched
    real, tried = validate_case.predict_slices, []

    def predict(networks, image, *, plans, **named):
        tried.append(plans.inference.slices_per_batch)
        if plans.inference.slices_per_batch > most:
            raise torch.OutOfMemoryError("no room")
        return real(networks, image, plans=plans, **named)

    monkeypatch.setattr(validate_case, "predict_slices", predict)
    most = 1
    assert ValidationSchedule(progress=0.0).measure(state, fold)["cases"] == 2
    assert tried == [4, 2, 1, 4, 2, 1]
    most = 0
    assert ValidationSchedule(progress=0.0).measure(state, fold) is None
    assert "the memory of cpu is full" in caplog.text


def test_looking_is_due_at_each_tenth_unless_it_took_too_much_time(watched):
    state, _ = watched
    state.seconds = 100.0
    watch = ValidationSchedule(progress=0.3)
    assert not watch.is_due(state, progress=0.35)
    assert watch.is_due(state, progress=0.4)
    watch._seconds = 4.1
    assert not watch.is_due(state, progress=0.4)
    assert ValidationSchedule(progress=0.95).is_due(state, progress=1.0)


class Sources:
    """A store of cases of 100 slices; the first letter of a case is its dataset."""

    def source(self, case_id):
        return SimpleNamespace(dataset=case_id[0])

    def shape(self, case_id):
        return (1, 100, 32, 32)


def test_datasets_take_turns_among_the_cases_that_choose_the_best_model(tmp_path):
    """All that are cheap enough would else be of the first dataset."""
    cases = ("a1", "a2", "a3", "a4", "b1", "c1", "c2")
    assert interleave_datasets(cases, Sources()) == ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]
    fold = SimpleNamespace(store=Sources(), validation_cases=cases)
    assert choose_validation_cases(fold) == ["a1", "b1", "c1"]
    assert interleave_datasets([], Sources()) == []
