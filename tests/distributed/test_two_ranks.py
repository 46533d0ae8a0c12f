"""Real ranks: two processes and gloo. What can be tested with less is in `test_ranks.py`."""

import pytest
import torch
from real_ranks import train_in_ranks

from autoseg.config.overrides import apply_settings
from autoseg.config.plans import write_plans
from autoseg.pipelines.train import train
from autoseg.system.atomic_files import write_json
from autoseg.training.logging.metrics_log import read_metrics

STEPS = 4


@pytest.fixture(scope="module")
def make_run(tiny_plans, make_store, tmp_path_factory):
    """Make a planned run by hand: three preprocessed cases, one of them left out by fold 0."""
    plans = tiny_plans(2, training={"batch_slices": 4, "steps_per_epoch": 1, "epochs": STEPS})

    def make(*settings):
        folder = tmp_path_factory.mktemp("run")
        make_store(plans, folder=folder / "preprocessed")
        write_plans(apply_settings(plans, settings), folder / "plans.json")
        write_json(folder / "splits.json", [{"train": ["case_1", "case_2"], "validation": ["case_0"]}])
        return folder

    return make


@pytest.fixture(scope="module")
def one(make_run):
    """Train on one rank and core with the doubled batch."""
    run = make_run("training.batch_slices=8")
    train(run, fold="0", device="cpu")
    return run / "fold_0"


def weights_in(fold):
    state = torch.load(fold / "resume.pt", weights_only=True)
    return {f"{part}.{name}": value for part in ("network", "averaged") for name, value in state[part].items()}


def losses_in(fold):
    return [record["losses"] for record in read_metrics(fold / "metrics.jsonl")]


def assert_same_training(fold, other):
    """Compare losses and weights, which differ by rounding: ranks sum in another order."""
    ours, theirs = losses_in(fold), losses_in(other)
    assert len(ours) == len(theirs) == STEPS
    for one, two in zip(ours, theirs, strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-3)
    weights, expected = weights_in(fold), weights_in(other)
    assert len(expected) > 100 and weights.keys() == expected.keys()


def test_two_ranks_give_the_losses_of_one_with_the_doubled_batch_and_one_log(make_run, one):
    run = make_run()
    first, second = train_in_ranks(run, "--fold", 0, "--device", "cpu")
    assert first.code == second.code == 0, first.err + second.err
    assert_same_training(run / "fold_0", one)
    assert {path.name for path in (run / "fold_0").iterdir()} == {path.name for path in one.iterdir()}
    assert "4 steps on cpu by 2 ranks" in first.err and first.out.startswith("4 steps in ")
    assert (second.out, second.err) == ("", "")


def test_a_cpus_cores_train_as_ranks_on_the_batch_of_one_process(make_run, monkeypatch):
    whole, halves = make_run(), make_run()
    train(whole, fold="0", device="cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # as on two cores
    train(halves, fold="0", device="cpu")
    assert_same_training(halves / "fold_0", whole / "fold_0")
    again = make_run()
    train(again, fold="0", device="cpu")
    ours, theirs = weights_in(again / "fold_0"), weights_in(halves / "fold_0")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())  # the same ranks, the same bytes
