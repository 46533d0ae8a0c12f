"""Batches by torch's DataLoader: the same ones whatever the number of workers, and what follows when one dies."""

import itertools
import os
import signal
import sys

import pytest
import torch

from autoseg.errors import TrainingError
from autoseg.training.data.loader import choose_num_workers, make_loader
from autoseg.training.data.sampler import SliceSampler

CPU = torch.device("cpu")
WHOLE = slice(0, 4)


@pytest.fixture
def sampler(tiny_plans, make_store):
    plans = tiny_plans(2, training={"batch_slices": 4})
    return SliceSampler(make_store(plans), ["case_0", "case_1"], plans=plans, cache_bytes=10**9)


def take(sampler, count, *, first_step=0, part=WHOLE, num_workers=0):
    loader = make_loader(sampler, first_step=first_step, part=part, device=CPU, num_workers=num_workers)
    return list(itertools.islice(loader, count))


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert one.case_ids == other.case_ids and torch.equal(one.organs, other.organs)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
@pytest.mark.parametrize("num_workers", [1, 3])
def test_batches_are_the_same_in_the_same_order_whatever_the_number_of_workers(sampler, num_workers):
    expected = [sampler.make_batch(step, part=WHOLE) for step in range(5, 12)]
    assert_same(take(sampler, 7, first_step=5), expected)
    assert_same(take(sampler, 7, first_step=5, num_workers=num_workers), expected)


def test_the_shards_of_two_ranks_are_the_batch_of_one(sampler):
    [whole] = take(sampler, 1, first_step=3)
    halves = [take(sampler, 1, first_step=3, part=part)[0] for part in (slice(0, 2), slice(2, 4))]
    assert torch.equal(torch.cat([half.images for half in halves]), whole.images)
    assert sum((half.case_ids for half in halves), ()) == whole.case_ids


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
@pytest.mark.fault("dead-worker")
def test_a_worker_that_is_killed_ends_the_training_with_an_error(sampler, monkeypatch):
    real, parent = sampler.make_batch, os.getpid()

    def make_batch(step, *, part=None):
        if step == 3 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(step, part=part)

    monkeypatch.setattr(sampler, "make_batch", make_batch)
    with pytest.raises(TrainingError, match="same command"):
        take(sampler, 8, num_workers=2)


def test_on_a_cpu_the_cores_are_left_to_the_network():
    assert choose_num_workers(CPU) == 0
    assert choose_num_workers(torch.device("cuda")) >= 0
