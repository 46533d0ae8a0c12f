import itertools

import numpy as np
import pytest
import torch

from autoseg.network.point_prompts import OUTSIDE
from autoseg.preprocessing.pipeline import CaseSource
from autoseg.training.data.crops import cut_slices, pad_to
from autoseg.training.data.sampler import SliceSampler, relabel
from autoseg.training.loss.targets import IGNORE

STILL = {"affine_probability": 0.0, "intensity_probability": 0.0, "mirror_axes": []}


class Cases:
    """A store in memory: case to its (C, S, R, W) image and (S, R, W) labels."""

    def __init__(self, sources=None, **cases):
        self.cases = cases
        self.sources = sources or {}

    def open_image(self, case_id):
        return self.cases[case_id][0]

    def open_labels(self, case_id):
        return self.cases[case_id][1]

    def source(self, case_id):
        return self.sources.get(case_id, CaseSource())

    def organ_slices(self, case_id):
        labels = self.cases[case_id][1]
        organs = [int(value) for value in np.unique(labels) if 0 < value < np.iinfo(labels.dtype).max]
        return {organ: np.flatnonzero((labels == organ).any(axis=(1, 2))) for organ in organs}


def make_case(shape=(6, 32, 32), *, num_channels=1, seed=0):
    """Noise, and organs 1 to 3 in the slices of these numbers."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.uint8)
    for organ in (1, 2, 3):
        labels[organ, 5 * organ : 5 * organ + 4, 8:12] = organ
    return rng.normal(size=(num_channels, *shape)).astype(np.float32), labels


def make_sampler(plans, cache_bytes=10**9, **cases):
    return SliceSampler(Cases(**cases), list(cases), plans=plans, cache_bytes=cache_bytes)


@pytest.mark.parametrize("numbers", [[1, 2, 3], [0, 0, 1], [3, 4, 4], [0, 2, 4], [0, 0, 0]])
def test_cut_slices_gives_the_numbered_slices_of_every_channel(numbers):
    image = np.arange(5.0)[None, :, None, None] + np.array([0, 10])[:, None, None, None]  # channel 1 is 10 more
    image = image * np.ones((1, 1, 4, 6))
    cut = cut_slices(image, np.array(numbers), rows=slice(1, 3), columns=slice(0, 5))
    assert cut.shape == (3, 2, 2, 5) and cut.dtype == np.float32
    assert cut[:, 0, 0, 0].tolist() == numbers
    assert cut[:, 1, 1, 4].tolist() == [10 + number for number in numbers]


def test_pad_to_pads_the_last_two_axes_evenly_and_never_cuts():
    padded = pad_to(np.ones((3, 2, 3)), (5, 3), value=-7.0)
    assert padded.shape == (3, 5, 3)
    assert padded[0, :, 0].tolist() == [-7, 1, 1, -7, -7]
    assert pad_to(np.ones((4, 4)), (2, 6), value=0).shape == (4, 6)


def test_relabel_asked_organs_by_their_place_the_others_to_background():
    labels = np.array([[0, 1, 2], [3, IGNORE, 5]])
    assert relabel(labels, np.array([0, 2])).tolist() == [[0, 1, 0], [2, IGNORE, 0]]
    assert relabel(labels, np.array([4])).tolist() == [[0, 0, 0], [0, IGNORE, 1]]
    assert relabel(np.array([[0, IGNORE]]), np.array([6])).tolist() == [[0, IGNORE]]


def test_make_batch_depends_on_seed_and_step_alone(tiny_plans):
    cases = {"a": make_case(), "b": make_case(seed=1)}
    plans = tiny_plans(3)
    sampler = make_sampler(plans, **cases)
    for step in range(12):
        one, again = sampler.make_batch(step), make_sampler(plans, **cases).make_batch(step)
        assert torch.equal(one.images, again.images) and torch.equal(one.labels, again.labels)
    sixth = sampler.make_batch(6)
    assert not torch.equal(sixth.images, sampler.make_batch(7).images)
    other = make_sampler(tiny_plans(3, training={"seed": 1}), **cases).make_batch(6)
    assert not torch.equal(sixth.images, other.images)


def test_make_batch_is_the_same_with_and_without_room_to_keep_cases(tiny_plans):
    cases = {"a": make_case(), "b": make_case(seed=1)}
    one, other = (make_sampler(tiny_plans(3), cache_bytes=size, **cases).make_batch(2) for size in (0, 10**9))
    assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_make_batch_shows_the_drawn_slice_between_its_neighbors(tiny_plans):
    """Each slice holds its own number, channel 1 a hundred more, and organ 1 in slice 3 only."""
    image = np.arange(6, dtype=np.float32)[None, :, None, None] + np.array([0, 100], np.float32)[:, None, None, None]
    image = np.broadcast_to(image, (2, 6, 32, 32)).copy()
    labels = np.zeros((6, 32, 32), np.uint8)
    labels[3, 10:20, 10:20] = 1
    plans = tiny_plans(1, num_channels=2, training={"foreground_oversampling": 1.0, "augmentation": STILL})
    batch = make_sampler(plans, a=(image, labels)).make_batch(0)
    assert batch.images[0, :, 0, 0].tolist() == [2, 102, 3, 103, 4, 104]
    assert torch.equal(batch.labels[0], torch.from_numpy(labels[3].astype(np.int64)))


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 1.0, 1.0), (0.5, 0.35, 0.75), (0.0, 0.0, 0.2)])
def test_slices_with_an_organ_come_as_often_as_the_plan_says(tiny_plans, share, least, most):
    labels = np.zeros((20, 32, 32), np.uint8)
    labels[7, 4:9, 4:9] = 1
    image = np.zeros((1, 20, 32, 32), np.float32)
    plans = tiny_plans(1, training={"foreground_oversampling": share, "augmentation": STILL, "batch_slices": 4})
    sampler = make_sampler(plans, a=(image, labels))
    found = [bool((labels == 1).any()) for step in range(25) for labels in sampler.make_batch(step).labels]
    assert least <= np.mean(found) <= most


def test_window_of_a_larger_slice_holds_the_organ_more_often_than_by_chance(tiny_plans):
    """A window of 32 in 96 x 96 that is placed anywhere holds an organ near a corner less than one time in seven."""
    labels = np.zeros((1, 96, 96), np.uint8)
    labels[0, 16:20, 70:74] = 1
    plans = tiny_plans(1, training={"foreground_oversampling": 1.0, "augmentation": STILL, "batch_slices": 4})
    sampler = make_sampler(plans, a=(np.zeros((1, 1, 96, 96), np.float32), labels))
    batches = [sampler.make_batch(step) for step in range(30)]
    assert all(batch.images.shape[-2:] == (32, 32) for batch in batches)
    shares = [bool((labels == 1).any()) for batch in batches for labels in batch.labels]
    assert 0.4 < np.mean(shares) < 1.0


def test_window_over_a_smaller_slice_pads_with_zeros_and_background(tiny_plans):
    image, labels = np.ones((1, 4, 20, 24), np.float32), np.ones((4, 20, 24), np.uint8)
    plans = tiny_plans(1, training={"augmentation": STILL})
    batch = make_sampler(plans, a=(image, labels)).make_batch(0)
    assert batch.images.sum() == 2 * 3 * 20 * 24 and batch.labels.sum() == 2 * 20 * 24
    assert batch.images[0, 0, 6:26, 4:28].eq(1).all() and batch.labels[0, 6:26, 4:28].eq(1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ignored_voxels_arrive_as_ignored(tiny_plans, dtype):
    labels = np.zeros((3, 32, 32), dtype)
    labels[:, :, :10], labels[:, :, 20:] = 1, np.iinfo(dtype).max
    plans = tiny_plans(2, training={"augmentation": STILL})
    batch = make_sampler(plans, a=(np.zeros((1, 3, 32, 32), np.float32), labels)).make_batch(0)
    assert batch.labels[:, :, 20:].eq(IGNORE).all()
    assert batch.labels[:, :, :10].eq(1).all() and batch.labels[:, :, 10:20].eq(0).all()


def test_windows_are_not_drawn_to_ignored_voxels(tiny_plans):
    """A slice of four windows, ignored in one corner: it is cut as if nothing were there."""
    image = np.arange(64.0 * 64.0, dtype=np.float32).reshape(1, 1, 64, 64)
    empty, ignored = np.zeros((2, 1, 64, 64), np.uint8)
    ignored[:, :8, :8] = 255
    plans = tiny_plans(2, training={"augmentation": STILL})
    samplers = [make_sampler(plans, a=(image, labels)) for labels in (empty, ignored)]
    for step in range(4):
        one, other = (sampler.make_batch(step) for sampler in samplers)
        assert one.images.equal(other.images)


CLIPS = {
    "batch_slices": 8,
    "memory_clip_every": 1,
    "memory_clip_slices": 4,
    "memory_clip_stride": 2,
    "augmentation": STILL,
}


def numbered_case(num_slices, size=32):
    """Each slice holds its own number, and is organ 1 all over."""
    image = np.broadcast_to(np.arange(num_slices, dtype=np.float32)[None, :, None, None], (1, num_slices, size, size))
    return image.copy(), np.ones((num_slices, size, size), np.uint8)


def test_clips_are_evenly_spaced_slices_of_one_case_in_either_direction(tiny_plans):
    plans = tiny_plans(1, network={"memory_slices": 2}, training=CLIPS)
    sampler = make_sampler(plans, a=numbered_case(40), b=numbered_case(30))
    steps = set()
    for number in range(20):
        batch = sampler.make_batch(number)
        assert batch.images.shape == (8, 3, 32, 32) and batch.labels.shape == (8, 32, 32)
        assert batch.positions.shape == (2, 4) and batch.positions.dtype == torch.int64
        assert batch.images[:, 1, 0, 0].tolist() == batch.positions.flatten().tolist()
        for clip, cases in zip(batch.positions, (batch.case_ids[:4], batch.case_ids[4:]), strict=True):
            assert len(set(cases)) == 1
            apart = set(np.diff(clip).tolist())
            if clip.min() > 0 and clip.max() < (39 if cases[0] == "a" else 29):
                assert len(apart) == 1
                steps |= apart
    assert steps == {-2, -1, 1, 2}


def test_clips_come_every_so_many_steps_and_single_slices_between_them(tiny_plans):
    plans = tiny_plans(1, network={"memory_slices": 2}, training={**CLIPS, "memory_clip_every": 3})
    sampler = make_sampler(plans, a=numbered_case(40), b=numbered_case(30))
    shapes = [tuple(sampler.make_batch(step).positions.shape) for step in range(7)]
    assert shapes == [(2, 4), (8, 1), (8, 1), (2, 4), (8, 1), (8, 1), (2, 4)]
    single = sampler.make_batch(1)
    assert single.images[:, 1, 0, 0].tolist() == single.positions.flatten().tolist()
    assert len(set(single.case_ids)) == 2
    halves = [sampler.make_batch(1, part=part) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat([half.images for half in halves]), single.images)


def test_points_are_drawn_on_the_slices_and_organs_of_the_batch_where_the_plan_takes_them(tiny_plans):
    plans = tiny_plans(
        3,
        network={"point_prompts": True},
        training={"foreground_oversampling": 1.0, "augmentation": STILL, "point_prompt_fraction": 1.0},
    )
    sampler = make_sampler(plans, a=make_case())
    batch = sampler.make_batch(3)
    assert batch.point_prompts.kinds.shape == (2, 3, 5) and batch.point_prompts.places.shape == (2, 3, 5, 2)
    for number, organ in itertools.product(range(2), range(3)):
        is_there = bool((batch.labels[number] == organ + 1).any())
        assert bool((batch.point_prompts.kinds[number, organ] > OUTSIDE).any()) == is_there
    parts = [sampler.make_batch(3, part=part) for part in (slice(0, 1), slice(1, 2))]
    assert torch.equal(torch.cat([part.point_prompts.places for part in parts]), batch.point_prompts.places)
    assert make_sampler(tiny_plans(3), a=make_case()).make_batch(3).point_prompts is None


def test_cases_in_which_an_organ_was_not_annotated_say_so(tiny_plans):
    """In case b nobody annotated organ 2: its background may be organ 2."""
    store = Cases({"b": CaseSource(annotated=(1, 3))}, a=make_case(), b=make_case(seed=1))
    plans = tiny_plans(3, training={"batch_slices": 6, "augmentation": STILL})
    batch = SliceSampler(store, ["a", "b"], plans=plans, cache_bytes=0).make_batch(0)
    assert set(batch.case_ids) == {"a", "b"}
    for case_id, classes in zip(batch.case_ids, batch.sets.classes, strict=True):
        assert classes[0].tolist() == [True, False, case_id == "b", False]
    assert make_sampler(plans, a=make_case()).make_batch(0).sets is None
