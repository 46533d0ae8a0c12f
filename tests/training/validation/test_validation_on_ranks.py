"""What ranks share of a fold beside its steps; the ranks are threads of this process."""

from dataclasses import replace

import pytest
import torch
from training_fixtures import make_context

from autoseg.config.plans import ComponentFilter, Reason
from autoseg.errors import DatasetError, TrainingError
from autoseg.network.weights.model_file import load_model
from autoseg.pipelines.train import _refuse_damaged
from autoseg.system.atomic_files import read_json, write_json
from autoseg.training.state import new_state
from autoseg.training.validation import final_validation, periodic_validation
from autoseg.training.validation.final_validation import validate_fold
from autoseg.training.validation.periodic_validation import ValidationSchedule

CPU = torch.device("cpu")


@pytest.fixture
def fold(tiny_plans, make_store, tmp_path):
    """Give plans and a fold of three cases that are left out."""
    plans = tiny_plans(2)
    store = make_store(plans, folder=tmp_path / "preprocessed")
    write_json(tmp_path / "splits.json", [])
    folder = tmp_path / "fold_0"
    folder.mkdir()
    return plans, make_context(store, folder, plans, validation=("case_0", "case_1", "case_2"))


def begin(plans):
    return new_state(plans, device=CPU)


def test_a_look_is_shared_out_by_case_and_all_ranks_know_what_came_of_it(fold, run_ranks, monkeypatch):
    plans, data = fold
    states, looked = [begin(plans), begin(plans)], []

    def validate(_network, _store, case, **_named):
        looked.append(case)
        return {"organ 0": 0.1 * int(case[-1]), "organ 1": None}

    monkeypatch.setattr(periodic_validation, "validate_case", validate)
    watches = [ValidationSchedule(progress=0.0), ValidationSchedule(progress=0.0)]

    def work(ranks):
        own = replace(data, ranks=ranks)
        return watches[ranks.rank].measure(states[ranks.rank], own)

    records = run_ranks(work)
    assert sorted(looked) == ["case_0", "case_1", "case_2"]
    assert [record["dice"] for record in records] == [{"organ 0": pytest.approx(0.1), "organ 1": None}] * 2
    assert records[0]["is_best"] and "is_best" not in records[1]
    assert watches[0]._seconds == watches[1]._seconds > 0  # or they would look at other steps from now on
    assert [path.name for path in data.folder.iterdir()] == ["model_best.safetensors"]


def test_a_look_that_finds_no_memory_on_one_rank_is_left_out_on_all(fold, run_ranks, monkeypatch):
    plans, data = fold
    states = [begin(plans), begin(plans)]

    def validate(_network, _store, case, **_named):
        if case == "case_1":
            raise TrainingError("the memory is full")
        return {"organ 0": 0.5, "organ 1": None}

    monkeypatch.setattr(periodic_validation, "validate_case", validate)

    def work(ranks):
        return ValidationSchedule(progress=0.0).measure(states[ranks.rank], replace(data, ranks=ranks))

    assert run_ranks(work) == [None, None]
    assert list(data.folder.iterdir()) == []


def test_the_validation_at_the_end_is_that_of_one_rank(fold, run_ranks, monkeypatch):
    plans, data = fold
    rule = ComponentFilter(organ="organ 0", min_fraction=0.5)
    chosen = []

    def choose(_pieces, *, names, planned):
        chosen.append(names)
        return (rule,), Reason(rule="made up")

    monkeypatch.setattr(final_validation, "choose_component_filter", choose)
    alone = replace(data, folder=data.folder.parent / "alone" / "fold_0")
    alone.folder.mkdir(parents=True)
    write_json(alone.folder.parent / "splits.json", [])
    expected = validate_fold(begin(plans), alone)
    states = [begin(plans), begin(plans)]
    found = run_ranks(lambda ranks: validate_fold(states[ranks.rank], replace(data, ranks=ranks)))
    assert found == [expected, expected]
    assert len(chosen) == 2  # by the first rank alone
    names = {path.name for path in (alone.folder / "validation").iterdir()}
    assert names == {"case_0.nii.gz", "case_1.nii.gz", "case_2.nii.gz", "pieces.json", "summary.json"}
    for name in names:
        assert (data.folder / "validation" / name).read_bytes() == (alone.folder / "validation" / name).read_bytes()
    assert list(read_json(data.folder / "validation" / "summary.json")["cases"]) == ["case_0", "case_1", "case_2"]
    assert load_model(data.folder / "model.safetensors")[1].inference.component_filter == (rule,)


def test_a_damaged_case_is_found_by_one_rank_removed_by_the_first_and_told_to_all(fold, run_ranks, monkeypatch):
    _, data = fold
    path = data.store.folder / "case_1" / "image.b2nd"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    checked = []
    real = data.store._is_damaged
    monkeypatch.setattr(data.store, "_is_damaged", lambda case: checked.append(case) or real(case))

    def work(ranks):
        with pytest.raises(DatasetError, match="1 of 3 preprocessed cases") as caught:
            _refuse_damaged(replace(data, ranks=ranks))
        return [problem.case_id for problem in caught.value.problems]

    assert run_ranks(work) == [["case_1"], ["case_1"]]
    assert sorted(checked) == ["case_0", "case_1", "case_2"]
    assert not path.parent.exists()
