"""Augments training slices with batchgenerators, the same way for all slices of a clip.

Owns: which changes are made, in which order, by the plan's probabilities. No other file imports batchgenerators.

batchgenerators draws from the global generators of NumPy and of Python. `augment` seeds both from the generator it is
given, so a batch depends on nothing else; only one thread at a time may call it.
"""

import random
from functools import cache

import numpy as np
from batchgenerators.augmentations.color_augmentations import (
    augment_brightness_multiplicative,
    augment_contrast,
    augment_gamma,
)
from batchgenerators.augmentations.noise_augmentations import augment_gaussian_blur, augment_gaussian_noise
from batchgenerators.augmentations.spatial_transformations import augment_spatial
from threadpoolctl import ThreadpoolController

from autoseg.config.plans import AugmentationPlan

BRIGHTNESS_RANGE = CONTRAST_RANGE = (0.75, 1.25)
GAMMA_RANGE = (0.7, 1.5)
BLUR_SIGMA_PX = (0.5, 1.5)


def augment(
    image: np.ndarray, labels: np.ndarray, *, plan: AugmentationPlan, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Augment a clip of T slices, which may be one, and their labels.

    Args:
        image: (T * N, C, R, W) float32: N neighboring slices of C channels for each slice of the clip, one after the
            other.
        labels: (T, R, W) integers; negative ones are ignored, and stay so.
        plan: Probabilities and ranges.
        rng: The source of all randomness.

    Returns:
        New arrays of the same shapes and types.
    """
    seed = int(rng.integers(2**31))
    np.random.seed(seed)
    random.seed(seed)
    image, labels = _mirror(image, labels, plan, rng)
    if rng.random() < plan.affine_probability:
        image, labels = _rotate_and_scale(image, labels, plan)
    # (C, N, R, W): an intensity change is one for a channel, the same in all neighboring slices
    channels = image.swapaxes(0, 1).copy()  # batchgenerators works in place
    if rng.random() < plan.intensity_probability:
        channels = augment_brightness_multiplicative(channels, multiplier_range=BRIGHTNESS_RANGE)
    if rng.random() < plan.intensity_probability:
        channels = augment_contrast(channels, contrast_range=CONTRAST_RANGE)
    if rng.random() < plan.intensity_probability:
        channels = augment_gamma(channels, gamma_range=GAMMA_RANGE, retain_stats=True, per_channel=True)
    if rng.random() < plan.intensity_probability:  # the argument's name misleads: these are standard deviations
        channels = augment_gaussian_noise(channels, noise_variance=(0, plan.noise_std))
    if rng.random() < plan.intensity_probability:  # after noise: that of interpolated scans is smooth
        planes = channels.reshape(-1, *channels.shape[-2:])  # (C * N, R, W), all blurred alike
        planes = augment_gaussian_blur(planes, BLUR_SIGMA_PX, per_channel=False)
        channels = planes.reshape(channels.shape)
    return np.ascontiguousarray(channels.swapaxes(0, 1), dtype=np.float32), np.ascontiguousarray(labels)


def _mirror(
    image: np.ndarray, labels: np.ndarray, plan: AugmentationPlan, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    if "slice" in plan.mirror_axes and rng.random() < 0.5:
        image, labels = image[::-1], labels[::-1]  # the clip runs the other way, and so do the neighbors
    if "row" in plan.mirror_axes and rng.random() < 0.5:
        image, labels = image[..., ::-1, :], labels[:, ::-1]
    if "column" in plan.mirror_axes and rng.random() < 0.5:
        image, labels = image[..., ::-1], labels[..., ::-1]
    return image, labels


def _rotate_and_scale(image: np.ndarray, labels: np.ndarray, plan: AugmentationPlan) -> tuple[np.ndarray, np.ndarray]:
    angle = np.deg2rad(plan.rotation_degrees)
    num_slices, num_channels, rows, columns = image.shape
    with _linear_algebra().limit(limits=1, user_api="blas"):
        image, moved = augment_spatial(
            np.ascontiguousarray(image).reshape(1, num_slices * num_channels, rows, columns),
            labels[None].astype(np.float32),
            patch_size=(rows, columns),
            do_elastic_deform=False,
            angle_x=(-angle, angle),
            scale=plan.scale_range,
            border_mode_data="nearest",
            border_mode_seg="nearest",
            order_data=1,
            order_seg=0,
            random_crop=False,
        )
    return image.reshape(num_slices, num_channels, rows, columns), moved[0].astype(labels.dtype)


@cache
def _linear_algebra() -> ThreadpoolController:
    """Return the control over the threads of NumPy's matrix products.

    batchgenerators rotates the places of all pixels by such a product. In large windows (512 px) its threads spin for
    up to
    a hundred milliseconds beside two of work, and every process has as many of them as there are cores.
    """
    return ThreadpoolController()
