"""Several ranks: one that is lost, ranks that do not want the same, more of them than there is work for."""

import shutil

import pytest
import torch
from real_ranks import train_in_ranks

from autoseg.config.overrides import apply_settings
from autoseg.config.plans import read_plans, write_plans
from autoseg.errors import UsageError
from autoseg.pipelines.train import _train
from autoseg.training.logging.metrics_log import read_metrics
from autoseg.training.step_share import share_of

STEPS = 6


def losses_in(run):
    return [record["losses"] for record in read_metrics(run / "fold_all" / "metrics.jsonl")]


def weights_in(run):
    return torch.load(run / "fold_all" / "resume.pt", weights_only=True)["network"]


@pytest.mark.slow
@pytest.mark.fault("rank-lost")
def test_a_killed_rank_ends_all_with_a_message_and_the_same_command_continues_on_any_number_of_ranks(tiny_run, command):
    run = tiny_run("training.steps_per_epoch=1", "training.batch_slices=4")
    undisturbed = run.with_name("undisturbed")
    shutil.copytree(run, undisturbed)
    doubled = apply_settings(read_plans(run / "plans.json"), ["training.batch_slices=8"])
    write_plans(doubled, undisturbed / "plans.json")
    assert command("train", undisturbed, "--epochs", STEPS).code == 0

    first, second = train_in_ranks(run, "--epochs", STEPS, "--device", "cpu", kills={1: 4})
    assert (first.code, second.code) == (69, -9), first.err
    assert first.seconds < 30
    assert "RankLostError: rank 1 of 2 is gone (killed, out of memory, or its machine is off); " in first.err
    assert "the run stops at step 4. Start all ranks again: the same command continues." in first.err
    assert first.err.count("RankLostError") == 1 and "Traceback" not in first.err

    outcome = command("train", run, "--epochs", STEPS)  # one rank, which takes the slices of both
    assert outcome.code == 0 and "continuing at step 4" in outcome.text
    assert losses_in(run) == losses_in(undisturbed) and len(losses_in(run)) == STEPS
    weights, expected = weights_in(run), weights_in(undisturbed)
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


@pytest.mark.fault("ranks-disagree")
def test_ranks_that_do_not_want_the_same_are_refused_with_both_values(tiny_run, run_ranks):
    run = tiny_run()

    def work(ranks):
        named = {"fold": "all", "max_minutes": None, "device": "cpu", "offline": True, "start_from": None}
        return _train(run, epochs=3 + ranks.rank, ranks=ranks, **named)

    message = r"rank 1 of 2 has another length \(steps, seconds\) than the first one: \[40, None\], there \[30, None\]"
    with pytest.raises(UsageError, match=message):
        run_ranks(work)
    assert not (run / "fold_all").exists()


@pytest.mark.fault("ranks-disagree")
def test_more_ranks_than_slices_are_refused(tiny_run):
    plans = read_plans(tiny_run() / "plans.json")
    assert plans.training.batch_slices == 2
    with pytest.raises(UsageError, match=r"a step of this run has 2 slices, too few for 3 ranks\. Start at most 2"):
        share_of(plans, slices_per_step=2, rank=1, num_ranks=3)
