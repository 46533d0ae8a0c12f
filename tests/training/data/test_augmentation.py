import random

import numpy as np
import pytest

from autoseg.config.plans import AugmentationPlan
from autoseg.training.data.augmentation import augment
from autoseg.training.loss.targets import IGNORE

STILL = AugmentationPlan(affine_probability=0, intensity_probability=0, mirror_axes=())
WILD = AugmentationPlan(affine_probability=1, intensity_probability=1, mirror_axes=("slice", "row", "column"))


def make_slice():
    """Three neighbors of two channels, 24 x 32; organs 1 and 2, and a rim that is ignored."""
    image = np.random.default_rng(1).normal(size=(3, 2, 24, 32)).astype(np.float32)
    labels = np.zeros((24, 32), np.int64)
    labels[4:12, 6:20], labels[14:20, 10:28], labels[:, :3] = 1, 2, IGNORE
    return image, labels[None]


def run(plan, seed):
    image, labels = make_slice()
    return augment(image, labels, plan=plan, rng=np.random.default_rng(seed))


def test_augment_with_every_probability_0_changes_nothing():
    image, labels = run(STILL, 3)
    expected = make_slice()
    assert np.array_equal(image, expected[0]) and np.array_equal(labels, expected[1])


def test_augment_depends_on_its_generator_alone():
    for seed in range(8):  # among them some with noise, whose strength batchgenerators draws from Python's generator
        np.random.seed(1)
        random.seed(1)
        one = run(WILD, seed)
        np.random.seed(2)
        random.seed(2)
        again, other = run(WILD, seed), run(WILD, seed + 100)
        assert np.array_equal(one[0], again[0]) and np.array_equal(one[1], again[1])
        assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("seed", range(4))
def test_augment_keeps_shapes_types_and_the_set_of_labels(seed):
    image, labels = run(WILD, seed)
    assert image.shape == (3, 2, 24, 32) and image.dtype == np.float32 and image.flags["C_CONTIGUOUS"]
    assert labels.shape == (1, 24, 32) and labels.dtype == np.int64 and labels.flags["C_CONTIGUOUS"]
    assert np.isfinite(image).all()
    assert set(np.unique(labels)) <= {IGNORE, 0, 1, 2}
    assert (labels == IGNORE).any() and (labels == 1).any() and (labels == 2).any()


FLIPS = {
    "slice": (lambda image: image[::-1], lambda labels: labels),
    "row": (lambda image: image[..., ::-1, :], lambda labels: labels[:, ::-1]),
    "column": (lambda image: image[..., ::-1], lambda labels: labels[..., ::-1]),
}


@pytest.mark.parametrize("axis", FLIPS)
def test_augment_mirrors_only_the_axis_that_the_plan_gives_about_every_other_time(axis):
    flip_image, flip_labels = FLIPS[axis]
    plan = STILL.model_copy(update={"mirror_axes": (axis,)})
    whole, whole_labels = make_slice()
    flipped = []
    for seed in range(30):
        image, labels = run(plan, seed)
        is_flipped = not np.array_equal(image, whole)
        assert np.array_equal(image, flip_image(whole) if is_flipped else whole)
        assert np.array_equal(labels, flip_labels(whole_labels) if is_flipped else whole_labels)
        flipped.append(is_flipped)
    assert 5 < sum(flipped) < 25


def test_augment_changes_intensity_alike_in_all_neighboring_slices():
    """Constant neighbors stay equal to each other: else brightness would tell the slice from its neighbors."""
    image = np.ones((3, 1, 8, 8), np.float32) * np.linspace(1, 2, 8, dtype=np.float32)
    plan = STILL.model_copy(update={"intensity_probability": 1.0})
    changed = 0
    for seed in range(12):
        result, labels = augment(image, np.zeros((1, 8, 8), np.int64), plan=plan, rng=np.random.default_rng(seed))
        changed += not np.allclose(result, image, atol=0.05)
        assert np.abs(result.mean(axis=(1, 2, 3)) - result.mean()).max() < 0.15  # noise is all that differs
        assert (labels == 0).all()
    assert changed > 6


def make_clip():
    """Four slices with three neighbors each; channel 0 is the label map, which moves from slice to slice."""
    labels = np.stack([np.roll(np.maximum(make_slice()[1][0], 0), 3 * t, axis=1) for t in range(4)])  # (4, 24, 32)
    return np.repeat(labels[:, None], 3, axis=0).astype(np.float32), labels  # (4 * 3, 1, 24, 32)


def test_every_slice_of_a_clip_is_turned_alike():
    image, labels = make_clip()
    plan = STILL.model_copy(update={"affine_probability": 1.0})
    for seed in range(4):
        moved, moved_labels = augment(image, labels, plan=plan, rng=np.random.default_rng(seed))
        assert moved.shape == (12, 1, 24, 32) and moved_labels.shape == (4, 24, 32)
        for t in range(4):
            assert np.mean(np.round(moved[3 * t + 1, 0]) == moved_labels[t]) > 0.9
    still, still_labels = augment(
        np.repeat(image[:3], 4, axis=0), np.repeat(labels[:1], 4, axis=0), plan=plan, rng=np.random.default_rng(0)
    )
    assert np.ptp(still, axis=0).max() == 0 and np.ptp(still_labels, axis=0).max() == 0


def test_a_clip_mirrored_along_the_slices_runs_the_other_way():
    image, labels = make_clip()
    plan = STILL.model_copy(update={"mirror_axes": ("slice",)})
    found = set()
    for seed in range(12):
        moved, moved_labels = augment(image, labels, plan=plan, rng=np.random.default_rng(seed))
        is_turned = not np.array_equal(moved_labels, labels)
        assert np.array_equal(moved_labels, labels[::-1] if is_turned else labels)
        assert np.array_equal(moved, image[::-1] if is_turned else image)
        found.add(is_turned)
    assert found == {True, False}
