"""Device augmentation on CPU tensors, beside batchgenerators, SciPy and flips by hand."""

import numpy as np
import pytest
import torch
from batchgenerators.augmentations.color_augmentations import augment_contrast, augment_gamma
from batchgenerators.augmentations.spatial_transformations import augment_spatial
from scipy.ndimage import gaussian_filter

from autoseg.config.overrides import apply_settings
from autoseg.config.plans import AugmentationPlan
from autoseg.errors import PlanError
from autoseg.training.data.augmentation import augment
from autoseg.training.data.augmentation_draws import Changes, ClipChanges, draw_changes
from autoseg.training.data.device_augmentation import change, make_changes
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.loss.targets import IGNORE

AXES = ("slice", "row", "column")
STILL = AugmentationPlan(affine_probability=0, intensity_probability=0, mirror_axes=())
WILD = AugmentationPlan(affine_probability=1, intensity_probability=1, mirror_axes=AXES)
NOTHING = ClipChanges((), None, None, None, None, None, None, seed=1)


def with_only(**fields):
    return ClipChanges(**{**vars(NOTHING), **fields})


def make_batch(num_clips=3, *, length=1, seed=0):
    """Clips of slices with three neighbors of two channels, 24 x 32; organs 1 and 2, and a rim that is ignored."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(num_clips * length, 3 * 2, 24, 32)).astype(np.float32)
    labels = np.zeros((num_clips * length, 24, 32), np.int64)
    labels[:, 4:12, 6:20], labels[:, 14:20, 10:28], labels[:, :, :3] = 1, 2, IGNORE
    return torch.from_numpy(images), torch.from_numpy(labels)


def run(*clips, length=1):
    images, labels = make_batch(len(clips), length=length)
    changed = change(images, labels, Changes(clips, num_channels=2))
    return images.numpy(), labels.numpy(), changed[0].numpy(), changed[1].numpy()


def test_no_change_leaves_everything_and_some_leave_the_other_clips_and_the_input():
    images, labels, changed, moved = run(NOTHING, NOTHING)
    assert np.array_equal(images, changed) and np.array_equal(labels, moved)
    other = with_only(turn=(0.2, 1.1), brightness=(1.1, 0.9), gamma=(1.2, 0.8), noise=0.1, blur_px=1.0)
    images, labels, changed, moved = run(NOTHING, other, NOTHING)
    assert np.array_equal(images, make_batch(3)[0].numpy()) and np.array_equal(labels, make_batch(3)[1].numpy())
    assert [np.array_equal(one, two) for one, two in zip(images, changed, strict=True)] == [True, False, True]
    assert [np.array_equal(one, two) for one, two in zip(labels, moved, strict=True)] == [True, False, True]


@pytest.mark.parametrize(("angle", "scale"), [(0.3, 1.0), (-0.2, 1.2), (0.1, 0.8)])
def test_a_turn_is_that_of_batchgenerators(angle, scale):
    """Scales below 1 it draws from up to 1, so such a one cannot be given to it; that one is the area's."""
    images, labels, changed, moved = run(with_only(turn=(angle, scale)))
    assert (moved == 1).sum() == pytest.approx((labels == 1).sum() / scale**2, rel=0.1)
    if scale < 1:
        return
    expected, expected_labels = augment_spatial(
        images.astype(np.float64),
        labels[None].astype(np.float32),
        patch_size=(24, 32),
        do_elastic_deform=False,
        angle_x=(angle, angle),
        scale=(scale, scale),
        border_mode_data="nearest",
        border_mode_seg="nearest",
        order_data=1,
        order_seg=0,
        random_crop=False,
    )
    np.testing.assert_allclose(changed, expected, atol=1e-4)
    assert np.mean(moved == expected_labels[0]) > 0.998  # a place halfway between two pixels is either


def test_contrast_and_gamma_are_those_of_batchgenerators_for_each_channel():
    for field, function, option in (
        ("contrast", augment_contrast, {"contrast_range": lambda: 0.8}),
        ("gamma", augment_gamma, {"gamma_range": (1.4, 1.4), "retain_stats": True, "per_channel": True}),
    ):
        value = 0.8 if field == "contrast" else 1.4
        images, labels, changed, moved = run(with_only(**{field: (value, value)}))
        channels = images[0].reshape(3, 2, 24, 32).swapaxes(0, 1).copy()  # (C, N, R, W)
        expected = function(channels.copy(), **option).swapaxes(0, 1).reshape(6, 24, 32)
        np.testing.assert_allclose(changed[0], expected, atol=1e-5)
        assert np.array_equal(moved, labels) and not np.allclose(changed, images, atol=0.01)


@pytest.mark.parametrize("deviation", [0.5, 0.9, 1.5])
def test_blur_is_that_of_scipy_up_to_the_borders(deviation):
    images, _, changed, _ = run(with_only(blur_px=deviation))
    for plane, blurred in zip(images[0], changed[0], strict=True):
        np.testing.assert_allclose(blurred, gaussian_filter(plane, deviation), atol=1e-5)


def test_noise_has_its_deviation_and_depends_on_its_clip_alone():
    images, labels, changed, _ = run(*(with_only(noise=0.2, seed=seed) for seed in (5, 6)))
    noise = changed - images
    assert noise.std(axis=(1, 2, 3)) == pytest.approx([0.2, 0.2], rel=0.05)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05
    alone = change(
        torch.from_numpy(images[1:]), torch.from_numpy(labels[1:]), Changes((with_only(noise=0.2, seed=6),), 2)
    )
    assert np.array_equal(alone[0].numpy(), changed[1:])


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("axis", AXES)
def test_mirrored_clips_are_flipped_and_run_the_other_way(axis, length):
    images, labels, changed, moved = run(NOTHING, with_only(mirrored=(axis,)), length=length)
    flip = {"slice": 0, "row": -2, "column": -1}[axis]
    planes = images[length:].reshape(length * 3, 2, 24, 32)
    assert np.array_equal(changed[length:].reshape(planes.shape), np.flip(planes, flip))
    assert np.array_equal(moved[length:], np.flip(labels[length:], flip))
    assert np.array_equal(changed[:length], images[:length])


def test_the_same_clips_get_the_same_changes_as_on_a_cpu():
    """Mirroring has no strength, so here the results are equal; which other changes are made is drawn by the same."""
    images, labels = make_batch(1)
    plan = STILL.model_copy(update={"mirror_axes": AXES})
    for seed in range(20):
        clip = draw_changes(plan, num_channels=2, rng=np.random.default_rng(seed))
        ours, our_labels = change(images, labels, Changes((clip,), 2))
        planes, maps = augment(
            images.numpy().reshape(3, 2, 24, 32), labels.numpy(), plan=plan, rng=np.random.default_rng(seed)
        )
        assert np.array_equal(ours.numpy().reshape(3, 2, 24, 32), planes) and np.array_equal(our_labels.numpy(), maps)
    plan = STILL.model_copy(update={"affine_probability": 0.4, "noise_std": 0.0})
    is_turned = []
    for seed in range(20):
        clip = draw_changes(plan, num_channels=2, rng=np.random.default_rng(seed))
        _, maps = augment(
            images.numpy().reshape(3, 2, 24, 32), labels.numpy(), plan=plan, rng=np.random.default_rng(seed)
        )
        assert (clip.turn is None) == np.array_equal(maps, labels.numpy())
        is_turned.append(clip.turn is not None)
    assert 2 < sum(is_turned) < 18


def describe(image, labels):
    """Return of an image with a bar: its angle and area, mean and deviation of the image, roughness of its pixels."""
    rows, columns = np.nonzero(labels == 1)
    covariance = np.cov(rows, columns)
    angle = 0.5 * np.arctan2(2 * covariance[0, 1], covariance[1, 1] - covariance[0, 0])
    return angle, len(rows), image.mean(), image.std(), np.abs(np.diff(image, axis=-1)).mean()


def test_many_draws_are_spread_as_those_of_batchgenerators():
    image = np.random.default_rng(1).normal(size=(1, 1, 40, 40)).astype(np.float32)
    labels = np.zeros((1, 40, 40), np.int64)
    labels[0, 17:23, 8:32] = 1
    image[0] += 2.0 * labels
    plan = WILD.model_copy(update={"mirror_axes": (), "affine_probability": 0.8, "intensity_probability": 0.5})
    found = {"here": [], "batchgenerators": []}
    for seed in range(250):
        theirs = augment(image, labels, plan=plan, rng=np.random.default_rng(seed))
        clip = draw_changes(plan, num_channels=1, rng=np.random.default_rng(seed + 1000))
        ours = change(torch.from_numpy(image), torch.from_numpy(labels), Changes((clip,), 1))
        found["batchgenerators"].append(describe(theirs[0], theirs[1][0]))
        found["here"].append(describe(ours[0].numpy(), ours[1][0].numpy()))
    here, there = (np.array(found[name]) for name in ("here", "batchgenerators"))
    spread = there.std(axis=0)
    assert (np.abs(here.mean(axis=0) - there.mean(axis=0)) < 0.3 * spread).all()
    assert here.std(axis=0) == pytest.approx(spread, rel=0.25)
    for share in (0.02, 0.98):
        difference = np.abs(np.quantile(here, share, axis=0) - np.quantile(there, share, axis=0))
        assert (difference < 0.7 * spread).all()
    assert np.rad2deg(np.abs(here[:, 0]).max()) < 22 and np.rad2deg(np.abs(here[:, 0]).max()) > 17


@pytest.fixture(scope="module")
def plans(tiny_plans):
    return tiny_plans(
        2,
        training={
            "batch_slices": 4,
            "steps_per_epoch": 2,
            "augmentation": {"run_on": "device", "intensity_probability": 0.5, "mirror_axes": ["row"]},
        },
    )


def test_a_batch_brings_its_changes_along_and_they_are_made_once(plans, make_store):
    store = make_store(plans)
    sampler = SliceSampler(store, ["case_0", "case_1"], plans=plans, cache_bytes=10**9)
    batch = sampler.make_batch(3)
    assert len(batch.changes.clips) == 4
    part = sampler.make_batch(3, part=slice(2, 4))
    assert part.changes.clips == batch.changes.clips[2:] and torch.equal(part.images, batch.images[2:])
    before = batch.images.clone()
    changed = make_changes(batch)
    assert changed.changes is None and not torch.equal(changed.images, batch.images)
    assert torch.equal(make_changes(part).images, changed.images[2:])
    assert torch.equal(batch.images, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_gpu_makes_the_changes_that_a_cpu_makes_and_its_own_noise_again_and_again():
    images, labels = make_batch(8)
    plan = WILD.model_copy(update={"noise_std": 0.0})
    rng = np.random.default_rng(0)
    clips = tuple(draw_changes(plan, num_channels=2, rng=rng) for _ in range(8))
    expected = change(images, labels, Changes(clips, 2))
    found = change(images.cuda(), labels.cuda(), Changes(clips, 2))
    assert torch.allclose(found[0].cpu(), expected[0], atol=1e-3)
    assert (found[1].cpu() == expected[1]).float().mean() > 0.998
    noisy = Changes(tuple(with_only(noise=0.2, seed=seed) for seed in range(8)), 2)
    one, other = (change(images.cuda(), labels.cuda(), noisy)[0] for _ in range(2))
    assert torch.equal(one, other) and 0.15 < (one.cpu() - images).std() < 0.25


def test_points_are_drawn_on_a_cpu(tiny_plans):
    plans = tiny_plans(2, network={"point_prompts": True})
    with pytest.raises(PlanError, match=r"set training\.augmentation\.run_on to 'cpu'"):
        apply_settings(plans, ["training.augmentation.run_on=device"])
