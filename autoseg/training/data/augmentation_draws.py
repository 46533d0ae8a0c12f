"""Draws augmentation as numbers, to be applied on the device that trains.

Owns: `Changes`, and `draw_changes`, which draws from the same distributions as `augmentation.py`; the choice of changes
uses the clip's own generator as there, so both make the same ones.
Does not own: the pixels (`device_augmentation.py`).
"""

from dataclasses import dataclass

import numpy as np

from autoseg.config.plans import AugmentationPlan
from autoseg.training.data.augmentation import BLUR_SIGMA_PX, BRIGHTNESS_RANGE, CONTRAST_RANGE, GAMMA_RANGE


@dataclass(frozen=True)
class ClipChanges:
    """The changes of one clip, in the order in which they are made; None for changes that it does not get.

    Attributes:
        mirrored: The axes to mirror: "slice", "row", "column".
        turn: Rotation in the plane in radians, and scale.
        brightness: (C,) factors.
        contrast: (C,) factors of the distance from the mean.
        gamma: (C,) exponents.
        noise: The standard deviation of the noise.
        blur_px: The standard deviation of the Gaussian.
        seed: The seed of the noise's pixels.
    """

    mirrored: tuple[str, ...]
    turn: tuple[float, float] | None
    brightness: tuple[float, ...] | None
    contrast: tuple[float, ...] | None
    gamma: tuple[float, ...] | None
    noise: float | None
    blur_px: float | None
    seed: int


@dataclass(frozen=True)
class Changes:
    """The changes of a batch's clips, in order; each of `num_channels` has its own brightness, contrast and gamma."""

    clips: tuple[ClipChanges, ...]
    num_channels: int


def draw_changes(plan: AugmentationPlan, *, num_channels: int, rng: np.random.Generator) -> ClipChanges:
    """Draw the changes of one clip from its own generator."""
    seed = int(rng.integers(2**31))
    strengths = np.random.default_rng(seed)
    mirrored = tuple(axis for axis in ("slice", "row", "column") if axis in plan.mirror_axes and rng.random() < 0.5)
    is_turned = rng.random() < plan.affine_probability
    changed = [rng.random() < plan.intensity_probability for _ in range(5)]
    angle = np.deg2rad(plan.rotation_degrees)
    turn = (float(strengths.uniform(-angle, angle)), _draw_factor(plan.scale_range, strengths))
    brightness = tuple(strengths.uniform(*BRIGHTNESS_RANGE, size=num_channels).tolist())
    contrast = tuple(_draw_factor(CONTRAST_RANGE, strengths) for _ in range(num_channels))
    gamma = tuple(_draw_factor(GAMMA_RANGE, strengths) for _ in range(num_channels))
    noise = float(strengths.uniform(0, plan.noise_std))
    blur_px = float(strengths.uniform(*BLUR_SIGMA_PX))
    return ClipChanges(
        mirrored=mirrored,
        turn=turn if is_turned else None,
        brightness=brightness if changed[0] else None,
        contrast=contrast if changed[1] else None,
        gamma=gamma if changed[2] else None,
        noise=noise if changed[3] else None,
        blur_px=blur_px if changed[4] else None,
        seed=int(strengths.integers(2**63)),
    )


def _draw_factor(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    """Draw a factor as batchgenerators does: below 1 and above it equally often, where the range has both."""
    low, high = bounds
    if rng.random() < 0.5 and low < 1:
        return float(rng.uniform(low, 1))
    return float(rng.uniform(max(low, 1), high))
