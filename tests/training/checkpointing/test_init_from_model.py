"""A fold that begins from a finished model: which model, what it begins with, and what happens when it goes on."""

import shutil

import pytest
import torch
from training_fixtures import make_context

from autoseg.config.overrides import apply_settings
from autoseg.config.plans import write_plans
from autoseg.errors import CheckpointError, UsageError
from autoseg.network.build import build_network
from autoseg.network.weights.model_file import load_model, pack_models, read_model_tensors, save_model
from autoseg.pipelines.train import train
from autoseg.preprocessing.store import CaseStore
from autoseg.system.atomic_files import file_sha256, read_json, write_json
from autoseg.training import trainer
from autoseg.training.checkpointing import checkpoint_policy
from autoseg.training.checkpointing.init_from_model import (
    find_start,
    match_channels,
    match_organs,
    match_text_rows,
    name_start,
)
from autoseg.training.state import new_state
from autoseg.training.step import train_step

SHORT = {"steps_per_epoch": 2, "epochs": 1}
SMALL = {"semantic_decoder": False, "interaction_levels": 0, "injection_stages": [], "refiner_channels": [4, 8]}
CPU = torch.device("cpu")
SPLITS = [
    {"train": ["case_1", "case_2"], "validation": ["case_0"]},
    {"train": ["case_0", "case_2"], "validation": ["case_1"]},
]


@pytest.fixture(scope="module")
def plans(tiny_plans):
    return tiny_plans(2, training=SHORT, network=SMALL)


@pytest.fixture(scope="module")
def trained_once(plans, make_store, tmp_path_factory):
    """Give a planned run by hand, of which fold 0 is trained."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    make_store(plans, folder=folder / "preprocessed")
    write_plans(plans, folder / "plans.json")
    write_json(folder / "splits.json", SPLITS)
    train(folder, fold="0", device="cpu")
    return folder


@pytest.fixture
def run(trained_once, tmp_path):
    """Give the same run, planned only."""
    return shutil.copytree(trained_once, tmp_path / "run", ignore=shutil.ignore_patterns("fold_*"))


@pytest.fixture(scope="module")
def model(trained_once):
    return trained_once / "fold_0" / "model.safetensors"


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Leave out the picture, which takes as long as the training here."""
    monkeypatch.setattr(checkpoint_policy, "plot_progress", lambda *_: None)


def seeded_model(plans, path, seed):
    """Write a model whose layers all say something, so that it finds organs, if anywhere."""
    torch.manual_seed(seed)
    network = build_network(plans).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(network, plans, path)
    return path


def named(plans, *names):
    organs = [plans.data.organs[0].model_copy(update={"name": name, "value": k + 1}) for k, name in enumerate(names)]
    return plans.model_copy(update={"data": plans.data.model_copy(update={"organs": tuple(organs)})})


def test_organs_are_matched_by_name_then_by_synonym(plans):
    here = named(plans, "Kidney_L", "gizmo", "bile", "gall bladder", "肝", "Gizmo")
    there = named(plans, "gallbladder", "left kidney", "gizmo", "肺", "right kidney")
    assert match_organs(here, there) == (1, 2, None, 0, None, 2)


def test_rows_of_text_are_matched_by_organ_and_by_kind_of_scan_or_else_with_the_first(plans):
    def kinds(plan, first, *more):
        organs = [
            organ.model_copy(update={"additional_sentences": len(more) * (organ.sentences,)})
            for organ in plan.data.organs
        ]
        others = tuple({"name": name, "channels": plan.data.channels} for name in more)
        changed = {"modality": first, "additional_modalities": others, "organs": tuple(organs)}
        return plan.model_validate(plan.model_dump() | {"data": plan.data.model_dump() | changed})

    here = kinds(named(plans, "spleen", "liver", "thymus"), "mri", "ct", "pet")
    there = kinds(named(plans, "liver", "spleen"), "ct", "mri")
    assert match_text_rows(here, there) == (3, 2, None, 1, 0, None, 1, 0, None)
    assert match_text_rows(named(plans, "spleen"), there) == (1,)


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        (["CT"], ["CT"], (0,)),
        (["MRI"], ["CT"], (0,)),  # another name, but what the filters know is of use
        (["T1", "T2"], ["t2"], (None, 0)),
        (["T2", "T1", "FLAIR"], ["T1", "FLAIR"], (None, 0, 1)),
        (["PET"], ["CT", "PET"], (1,)),
        (["肝", "肺"], ["肺", "肝"], (1, 0)),
        (["A", "B", "C"], ["C", "D"], (1, None, 0)),
    ],
)
def test_channels_are_matched_by_name_then_in_their_order(here, there, expected):
    assert match_channels(here, there) == expected


@pytest.fixture(scope="module")
def two_folds(plans, tmp_path_factory):
    """Give a folder with the models of two folds in `run/`, and in one file, `packed.safetensors`."""
    folder = tmp_path_factory.mktemp("folds")
    files = [seeded_model(plans, folder / "run" / f"fold_{n}" / "model.safetensors", n) for n in range(2)]
    pack_models(files, folder / "packed.safetensors")
    return folder


@pytest.mark.parametrize(
    ("fold", "number"), [("all", 0), ("0", 0), ("1", 1), ("7", 0)], ids=["all", "first", "same", "no such"]
)
def test_of_several_folds_the_same_or_else_the_first_is_taken(two_folds, plans, tmp_path, fold, number, caplog):
    [expected], _ = read_model_tensors(two_folds / "run" / f"fold_{number}" / "model.safetensors")
    for source in (two_folds / "packed.safetensors", two_folds / "run"):
        caplog.clear()
        with caplog.at_level("INFO", logger="autoseg"):
            start = find_start(source, tmp_path, plans=plans, fold=fold, has_begun=False)
        assert f"2 folds have a model there; beginning from that of fold {number}" in caplog.text
        assert start.number == number
        assert all(torch.equal(value, expected[key]) for key, value in start.weights.tensors.items())
        assert start.weights.tensors.keys() == expected.keys()


def test_a_new_state_and_its_average_begin_with_the_models_weights_at_the_plans_rate(plans, model, tmp_path):
    start = find_start(model, tmp_path, plans=plans, fold="all", has_begun=False)
    state = new_state(plans, device=CPU, start=start)
    loaded, _ = load_model(model)
    expected = {key: value for key, value in loaded.state_dict().items() if not key.startswith("text.")}
    for network in (state.network, state.averaged):
        given = network.state_dict()
        assert all(torch.equal(given[key], value) for key, value in expected.items())
    factors = {(group["rate_factor"], group["frozen_until"]) for group in state.optimizers[0].param_groups}
    assert factors == {(1.0, 0.0)} and state.weights.parameters == ()


def test_a_run_with_another_organ_says_what_it_took_and_writes_it_down(tiny_plans, make_store, model, tmp_path, caplog):
    plans = tiny_plans(2, training=SHORT, network={**SMALL, "point_prompts": True})
    first, second = plans.data.organs
    spoken = {"name": "thymus", "sentences": ("the thymus lies in front of all",)}
    organs = (first, second.model_copy(update=spoken))
    plans = plans.model_copy(update={"data": plans.data.model_copy(update={"organs": organs})})
    plans = apply_settings(plans, ["network.image_size_px=64", "network.weights=sam2.pt"])
    make_store(plans, folder=tmp_path / "run" / "preprocessed")
    write_plans(plans, tmp_path / "run" / "plans.json")
    write_json(tmp_path / "run" / "splits.json", SPLITS)
    with caplog.at_level("INFO", logger="autoseg"):
        train(tmp_path / "run", device="cpu", start_from=model)
    record = read_json(tmp_path / "run" / "fold_all" / "weights.json")
    count = {name: len(record[name]) for name in ("taken", "adapted", "new", "left_over")}
    assert f"beginning from model.safetensors (tiny): {count['taken']} tensors taken, 2 adapted, " in caplog.text
    assert f"{count['new']} new, 0 left over" in caplog.text and count["taken"] > 200
    assert "  adapted: text 2" in caplog.text and "  new: point prompt encoder 7, refiner 2" in caplog.text
    assert "  organs: organ 0 known to it; thymus new" in caplog.text
    assert "tokens of the descriptions: 7 known to it, 4 new" in caplog.text  # thym-us, in, front
    assert "network.weights, sam2.pt, is not read: the model takes its place" in caplog.text
    assert "more would fit" not in caplog.text  # without the points it would be less that is new, not more that fits
    assert "nano backbone (from model.safetensors)" in caplog.text
    assert record["organs"] == {"organ 0": "organ 0", "thymus": None} and record["parameters"] == []
    assert record["file"] == "model.safetensors" and record["sha256"] == file_sha256(model)


def test_a_run_that_is_stopped_goes_on_by_the_same_command_and_equals_the_undisturbed_one(run, model, monkeypatch):
    def stop(state, *rest, **named):
        if state.step == 1:
            raise KeyboardInterrupt
        return train_step(state, *rest, **named)

    train(run, device="cpu", start_from=model)
    expected = (run / "fold_all" / "model.safetensors").read_bytes()
    record = (run / "fold_all" / "weights.json").read_bytes()
    shutil.rmtree(run / "fold_all")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "train_step", stop)
        train(run, device="cpu", start_from=model)
    assert (run / "fold_all" / "resume.pt").exists() and (run / "fold_all" / "weights.json").read_bytes() == record
    assert train(run, device="cpu", start_from=model).steps == 2
    assert (run / "fold_all" / "model.safetensors").read_bytes() == expected
    assert (run / "fold_all" / "weights.json").read_bytes() == record
    assert expected != model.read_bytes()


def test_a_fold_that_has_begun_goes_on_without_the_model_and_refuses_another(run, plans, model, tmp_path, caplog):
    mine = shutil.copy(model, tmp_path / "mine.safetensors")
    train(run, device="cpu", start_from=mine)
    caplog.clear()
    with caplog.at_level("INFO", logger="autoseg"):
        assert train(run, epochs=2, device="cpu").steps == 4  # not named any more
    assert "nano backbone (from mine.safetensors)" in caplog.text and "beginning from" not in caplog.text
    other = seeded_model(plans, tmp_path / "other.safetensors", 5)
    with pytest.raises(UsageError, match=r"has begun from another model, mine.safetensors .*Leave out --from to go on"):
        train(run, epochs=3, device="cpu", start_from=other)
    record = (run / "fold_all" / "weights.json").read_bytes()
    store = CaseStore(run / "preprocessed", data_hash=plans.data.hash())
    late = find_start(other, run / "fold_all", plans=plans, fold="all", has_begun=False)  # begun by another in between
    trainer.train_fold(make_context(store, run / "fold_all", plans, start=late))
    assert (run / "fold_all" / "weights.json").read_bytes() == record
    mine.unlink()
    assert train(run, epochs=3, device="cpu", start_from=mine).steps == 6
    assert "mine.safetensors cannot be read; it is not needed" in caplog.text
    write_json(run / "fold_all" / "weights.json", {"sha256": 3})
    with pytest.raises(CheckpointError, match=r"weights.json is damaged: it does not say which weights"):
        train(run, epochs=3, device="cpu", start_from=other)


def test_the_record_of_a_beginning_that_was_killed_is_not_taken_for_that_of_the_next(run, plans, model):
    train(run, device="cpu", start_from=model)
    (run / "fold_all" / "resume.pt").unlink()
    (run / "fold_all" / "resume_previous.pt").unlink(missing_ok=True)
    assert name_start(None, None, plans) == "no pretrained weights, from scratch"
    train(run, device="cpu")
    assert not (run / "fold_all" / "weights.json").exists()
