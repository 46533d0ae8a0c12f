"""Workers that make batches ahead: the same batches whatever their number, and what follows when one dies."""

import itertools
import os
import re
import signal
import sys
import time

import numpy as np
import pytest
import torch

from autoseg.errors import DatasetError
from autoseg.preprocessing.pipeline import CaseSource
from autoseg.training.data import loading
from autoseg.training.data.loading import batches_ahead, choose_num_workers
from autoseg.training.data.loading_worker import BatchMemory
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.gradients import find_gradients
from autoseg.training.state import new_state

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone"),
    pytest.mark.fault("dead-worker"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LONGEST_SECONDS = 60


@pytest.fixture(autouse=True)
def nothing_hangs():
    def too_long(_number, _frame):
        raise AssertionError("it hangs")  # nothing that is taken for an answer

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LONGEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def nothing_is_left(nothing_hangs):
    """Every worker is gone when a test is over."""
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


class Cases:
    """A store in memory: one annotates organ 1 alone, one is of another dataset with smaller slices."""

    def open_image(self, case_id):
        rng = np.random.default_rng(len(case_id))
        return rng.normal(size=(1, *self.open_labels(case_id).shape)).astype(np.float32)

    def open_labels(self, case_id):
        size = {"a": 40, "bb": 32}[case_id]
        labels = np.zeros((6, size, size), np.uint8)
        labels[1:4, 5:20, 8:25], labels[2:5, 22:30, 3:28] = 1, 2
        return labels

    def source(self, case_id):
        return CaseSource(annotated=(1,)) if case_id == "a" else CaseSource()

    def organ_slices(self, _case_id):
        return {1: np.arange(1, 4), 2: np.arange(2, 5)}


def make_sampler(plans, **options):
    return SliceSampler(Cases(), ["a", "bb"], plans=plans, cache_bytes=10**9, **options)


def take(sampler, count, **options):
    """Take batches, with copies of what lies in memory that is used again."""
    with batches_ahead(sampler, **{"first_step": 0, "device": CPU, **options}) as batches:
        return [(batch, batch.images.clone(), batch.labels.clone()) for batch in itertools.islice(batches, count)]


def assert_same(found, expected):
    for (batch, images, labels), (other, other_images, other_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert torch.equal(batch.organs, other.organs) and batch.case_ids == other.case_ids
        assert batch.changes == other.changes
        for one, two in (
            (batch.positions, other.positions),
            (batch.clicks and batch.clicks.places, other.clicks and other.clicks.places),
            (batch.clicks and batch.clicks.kinds, other.clicks and other.clicks.kinds),
            (batch.sets and batch.sets.classes, other.sets and other.sets.classes),
        ):
            assert (one is None) == (two is None) and (one is None or torch.equal(one, two))


WHOLE = [
    {"network": {"small_windows_px": [[32, 32]], "window_rows_px": 48, "window_columns_px": 48}},
    {"network": {"point_prompts": True, "memory_slices": 2}, "training": {"batch_slices": 6, "memory_clip_every": 2}},
    {"training": {"augmentation": {"run_on": "device"}}},
]


@pytest.mark.parametrize("changes", WHOLE, ids=["two windows", "clips and clicks", "changes on the device"])
def test_batches_are_the_same_in_the_same_order_whatever_the_number_of_workers(tiny_plans, changes):
    sampler = make_sampler(tiny_plans(2, **changes))
    expected = take(sampler, 9, first_step=5, num_workers=0)
    assert [batch.case_ids for batch, *_ in expected] == [sampler.make_batch(step).case_ids for step in range(5, 14)]
    for num_workers in (1, 3):
        assert_same(take(sampler, 9, first_step=5, num_workers=num_workers), expected)


def test_workers_make_the_part_that_is_asked_for(tiny_plans):
    sampler = make_sampler(tiny_plans(2, training={"batch_slices": 4}))
    found = take(sampler, 3, num_workers=2, part=slice(1, 3))
    assert_same(found, take(sampler, 3, num_workers=0, part=slice(1, 3)))
    assert found[0][1].shape[0] == 2


def test_a_batch_of_a_worker_stays_as_it_is_until_the_next_is_asked_for(tiny_plans):
    """All workers run as far ahead as they may meanwhile, which is two batches each and no more."""
    sampler = make_sampler(tiny_plans(2))
    made = []
    with batches_ahead(sampler, first_step=0, device=CPU, num_workers=2) as batches:
        for step in range(6):
            batch = next(batches)
            time.sleep(0.1)
            assert torch.equal(batch.images, sampler.make_batch(step).images)
            made.append(batch.images.data_ptr())
    assert len(set(made)) == 4


def die_at(sampler, steps, how, marker=None):
    """Let whoever makes one of these batches beside this process come to an end, once each where there is a marker."""
    here, make = os.getpid(), sampler.make_batch

    def make_batch(step, **options):
        is_first = marker is None or not (marker / str(step)).exists()
        if os.getpid() != here and step in steps and is_first:
            if marker is not None:
                (marker / str(step)).touch()
            how()
        return make(step, **options)

    sampler.make_batch = make_batch


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL .often this means that the memory was"),
        (lambda: os._exit(9), "ended by itself .exit code 9."),
    ],
    ids=["killed", "exit"],
)
def test_a_worker_that_dies_is_replaced_and_the_batches_are_the_same(tiny_plans, tmp_path, caplog, how, words):
    sampler = make_sampler(tiny_plans(2))
    expected = take(sampler, 8, num_workers=0)
    die_at(sampler, {0, 2}, how, tmp_path)
    assert_same(take(sampler, 8, num_workers=2), expected)
    told = [text for text in caplog.messages if re.search(words, text)]
    assert len(told) == 2 and all(text.endswith("Another takes its place.") for text in told)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_that_die_again_and_again_are_given_up_and_training_makes_the_batches(tiny_plans, caplog, num_workers):
    sampler = make_sampler(tiny_plans(2))
    expected = take(sampler, 6, num_workers=0)
    die_at(sampler, {1, 2}, lambda: os._exit(9))
    assert_same(take(sampler, 6, num_workers=num_workers), expected)
    told = [text for text in caplog.messages if "a process that makes batches ended by itself" in text]
    assert len(told) == loading.MOST_REPLACED + num_workers
    assert "made by the training itself from now on" in told[-1]


def test_a_worker_that_does_not_answer_is_replaced(tiny_plans, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(loading, "LONGEST_SECONDS", 0.5)
    sampler = make_sampler(tiny_plans(2))
    expected = take(sampler, 4, num_workers=0)
    die_at(sampler, {1}, lambda: time.sleep(60), tmp_path)
    assert_same(take(sampler, 4, num_workers=2), expected)
    assert "has not answered for 0.5 seconds. Another takes its place." in caplog.text


def test_an_error_in_a_worker_is_the_trainings_own_error(tiny_plans, caplog):
    sampler = make_sampler(tiny_plans(2))
    make = sampler.make_batch

    def make_batch(step, **options):
        if step == 3:
            raise DatasetError("case a is damaged: it cannot be unpacked.")
        return make(step, **options)

    sampler.make_batch = make_batch
    with (
        pytest.raises(DatasetError, match="case a is damaged"),
        batches_ahead(sampler, first_step=0, device=CPU, num_workers=2) as batches,
    ):
        for _ in range(3):
            next(batches)
        next(batches)
    assert "step 3: a process could not make the batch (DatasetError: case a is damaged" in caplog.text


def test_a_worker_without_memory_for_once_is_made_up_for(tiny_plans):
    sampler = make_sampler(tiny_plans(2))
    expected = take(sampler, 6, num_workers=0)

    def find_no_memory():
        raise MemoryError("8 GiB")

    die_at(sampler, {2, 3}, find_no_memory)
    assert_same(take(sampler, 6, num_workers=2), expected)


def test_processes_that_cannot_be_started_leave_the_batches_to_the_training(tiny_plans, caplog, monkeypatch):
    sampler = make_sampler(tiny_plans(2))

    def refuse(_process):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.context.ForkProcess.start", refuse)
    assert_same(take(sampler, 3, num_workers=2), take(sampler, 3, num_workers=0))
    assert caplog.text.count("could not be started") == 2


def test_an_interrupt_ends_the_workers(tiny_plans):
    sampler = make_sampler(tiny_plans(2))
    with (
        pytest.raises(KeyboardInterrupt),
        batches_ahead(sampler, first_step=0, device=CPU, num_workers=3) as batches,
    ):
        next(batches)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def test_a_batch_from_a_worker_has_the_gradients_of_one_made_here(tiny_plans):
    plans = tiny_plans(2)
    sampler = make_sampler(plans)
    state = new_state(plans, device=CPU, needs_scaler=False)
    state.network.train()
    with batches_ahead(sampler, first_step=0, device=CPU, num_workers=1) as batches:
        found = [find_gradients(state.network, state.parameters, next(batches), plan=plans.training) for _ in range(2)]
    for step, one in enumerate(found):
        expected = find_gradients(state.network, state.parameters, sampler.make_batch(step), plan=plans.training)
        assert one.losses == expected.losses


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_gpu_fetches_batches_of_workers_from_memory_that_stays_in_its_place(tiny_plans, tmp_path):
    """Also from the memory of a worker that died and was replaced."""
    torch.zeros(1, device=CUDA)
    sampler = make_sampler(tiny_plans(2))
    expected = [sampler.make_batch(step).images for step in range(12)]
    die_at(sampler, {5}, lambda: os._exit(9), tmp_path)
    with batches_ahead(sampler, first_step=0, device=CUDA, num_workers=3) as batches:
        for images in expected:
            batch = next(batches)
            assert batch.images.is_pinned()
            assert torch.equal(batch.images.to(CUDA, non_blocking=True).cpu(), images)


def test_the_number_of_workers_is_that_of_the_cores_that_are_left_as_far_as_memory_goes(tiny_plans, monkeypatch):
    plans = tiny_plans(2, network={"window_rows_px": 512, "window_columns_px": 256}, training={"batch_slices": 8})
    sampler = make_sampler(plans)
    assert sampler.largest_batch() == (8 * 3 * 512 * 256, 8 * 512 * 256)
    assert sampler.largest_batch(slice(0, 4)) == (4 * 3 * 512 * 256, 4 * 512 * 256)
    of_three_ranks = make_sampler(plans, slices_per_step=24)
    assert of_three_ranks.largest_batch(slice(16, 24)) == sampler.largest_batch()
    assert BatchMemory.find_bytes(10, 3) == 64
    bytes_a_worker = 2 * (4 * 3 + 8) * 8 * 512 * 256
    for cores, ranks, free, expected in [
        (16, 1, 2**40, 15),
        (64, 1, 2**40, 16),
        (64, 8, 2**40, 7),
        (1, 1, 2**40, 0),
        (16, 1, 5.1 * 3 * bytes_a_worker, 3),
        (16, 1, bytes_a_worker, 0),
    ]:
        monkeypatch.setattr(loading, "find_num_cores", lambda cores=cores: cores)
        monkeypatch.setattr(loading, "find_free_bytes", lambda free=free: free)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert choose_num_workers(sampler, device=CUDA) == expected
        assert choose_num_workers(sampler, device=CPU) == 0
