"""Several ranks: one that is lost, ranks that do not want the same, more of them than there is work for."""

import shutil

import pytest
from real_ranks import train_in_ranks

from autoseg.config.overrides import apply_settings
from autoseg.config.plans import read_plans, write_plans
from autoseg.errors import UsageError
from autoseg.training.context import shard_of_step
from autoseg.training.logging.metrics_log import read_metrics

STEPS = 5


def losses_in(run):
    return [record["losses"] for record in read_metrics(run / "fold_all" / "metrics.jsonl")]


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
    assert first.seconds < 60
    assert "the run stops at step 4" in first.err and "The same command continues the run." in first.err
    assert first.err.count("RankLostError") == 1 and "Traceback" not in first.err

    outcome = command("train", run, "--epochs", STEPS)  # one rank, which takes the slices of both
    assert outcome.code == 0 and "continuing at step 4" in outcome.text
    assert len(losses_in(run)) == STEPS
    for one, other in zip(losses_in(run), losses_in(undisturbed), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)


@pytest.mark.fault("ranks-disagree")
def test_more_ranks_than_slices_are_refused(tiny_run):
    plans = read_plans(tiny_run() / "plans.json")
    assert plans.training.batch_slices == 2
    with pytest.raises(UsageError, match=r"a step of this run has 2 slices, too few for 3 ranks\. Start at most 2"):
        shard_of_step(plans, slices_per_step=2, rank=1, world_size=3)
