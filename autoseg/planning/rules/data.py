"""Contains the rules for the data part of a plan: normalization, spacing, slice axis, crop.

Owns: one pure function per rule; each returns a `Choice`.
Does not own: putting the choices together (`planner.py`).

The rules for spacing and normalization are those of nnU-Net (Isensee et al. 2021, Nature Methods 18, supplement).
"""

from collections.abc import Sequence

import numpy as np

from autoseg.config.plans import Axis, ChannelPlan
from autoseg.organs import find_modality
from autoseg.planning.fingerprint.case_statistics import IntensityStatistics
from autoseg.planning.rules.choice import Choice
from autoseg.planning.rules.datasets import weighted_median

ANISOTROPIC_SPACING_RATIO = 3.0
ANISOTROPIC_SIZE_RATIO = 3.0
NEARLY_ISOTROPIC_RATIO = 1.3
MASK_FROM_REMOVED_SHARE = 0.25
AXES: tuple[Axis, Axis, Axis] = ("z", "y", "x")


def choose_normalization(
    channel_name: str, *, foreground: IntensityStatistics | None, median_removed_fraction: float
) -> Choice[ChannelPlan]:
    """Choose the normalization of a channel by its name.

    Args:
        channel_name: The name in the dataset.
        foreground: The intensities of the organs' voxels in the dataset.
        median_removed_fraction: The median fraction of voxels that cropping removes.
    """
    if find_modality([channel_name]) == "ct" and foreground is not None:
        plan = ChannelPlan(
            name=channel_name,
            normalization="ct",
            clip_low=foreground.percentile_00_5,
            clip_high=foreground.percentile_99_5,
            mean=foreground.mean,
            std=max(foreground.std, 1e-3),
        )
        rule = (
            "CT, whose units mean the same in every scan: clip to the 0.5 and 99.5 percentile of the organs' voxels "
            "over the dataset, then one mean and standard deviation for all scans."
        )
        return Choice(plan, rule, {"channel": channel_name, "foreground": foreground.model_dump(mode="json")})
    inside = median_removed_fraction > MASK_FROM_REMOVED_SHARE
    where = (
        "inside the non-zero mask, since cropping removes over a quarter of a scan" if inside else "over the whole scan"
    )
    return Choice(
        ChannelPlan(name=channel_name, normalization="zscore", nonzero_only=inside),
        f"Not a CT, so its units differ from scan to scan: each scan to mean 0 and deviation 1, measured {where}.",
        {"channel": channel_name, "median_removed_fraction": round(median_removed_fraction, 4)},
    )


def choose_target_spacing(
    spacings_zyx_mm: np.ndarray, *, cropped_sizes_zyx: np.ndarray, weights: np.ndarray | None = None
) -> Choice[tuple[float, float, float]]:
    """Choose the spacing that the network sees.

    Args:
        spacings_zyx_mm: (N, 3), one row per case.
        cropped_sizes_zyx: (N, 3), in voxels.
        weights: (N,) weights of cases, if several datasets are planned together; None means equal weights.
    """
    target = weighted_median(spacings_zyx_mm, weights)
    size = weighted_median(cropped_sizes_zyx, weights)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    facts = {
        "median_spacing_zyx_mm": _rounded(target),
        "median_cropped_size_zyx": _rounded(size),
        "smallest_spacing_zyx_mm": _rounded(spacings_zyx_mm.min(axis=0)),
        "largest_spacing_zyx_mm": _rounded(spacings_zyx_mm.max(axis=0)),
    }
    rule = "The median spacing on each axis."
    if weights is not None:
        rule = "The median spacing on each axis; each dataset counts as much as it is seen in training."
    is_coarse = target[worst] > ANISOTROPIC_SPACING_RATIO * target[others].max()
    is_short = size[worst] * ANISOTROPIC_SIZE_RATIO < size[others].min()
    if is_coarse and is_short:
        target[worst] = max(np.percentile(spacings_zyx_mm[:, worst], 10), target[others].max())
        rule += (
            f" The {AXES[worst]} axis is over 3x coarser and has under a third of the voxels of the others: there the "
            "10th percentile, so that thin slices are not thrown away."
        )
    return Choice((float(target[0]), float(target[1]), float(target[2])), rule, facts)


def choose_slice_axis(target_spacing_zyx_mm: Sequence[float], *, cropped_sizes_zyx: np.ndarray) -> Choice[Axis]:
    """Choose the slice axis: the coarsest axis if it is clearly coarser than the others, else z.

    Args:
        target_spacing_zyx_mm: The spacing that the network sees.
        cropped_sizes_zyx: (N, 3), in voxels; an axis with a single voxel is always the slice axis.
    """
    size = np.median(cropped_sizes_zyx, axis=0)
    facts = {"target_spacing_zyx_mm": _rounded(target_spacing_zyx_mm), "median_cropped_size_zyx": _rounded(size)}
    flat = [axis for axis in range(3) if size[axis] <= 1]
    if flat:
        return Choice(AXES[flat[0]], f"The scans have a single slice along {AXES[flat[0]]}.", facts)
    order = np.argsort(target_spacing_zyx_mm, kind="stable")
    worst, second = int(order[2]), int(order[1])
    if target_spacing_zyx_mm[worst] > NEARLY_ISOTROPIC_RATIO * target_spacing_zyx_mm[second]:
        return Choice(AXES[worst], f"{AXES[worst]} is the coarsest axis: the slices keep the finer two.", facts)
    return Choice("z", "No axis is clearly (1.3x) coarser than the others: axial slices.", facts)


def choose_crop(removed_fractions: np.ndarray) -> Choice[bool]:
    """Choose whether the border that is zero in all channels is cropped: always, since nothing is lost."""
    facts = {
        "median_removed_fraction": round(float(np.median(removed_fractions)), 4),
        "largest_removed_fraction": round(float(removed_fractions.max()), 4),
    }
    return Choice(True, "Voxels outside the box of the non-zero ones cost time and contain no information.", facts)


def to_slice_order(values_zyx: np.ndarray, *, slice_axis: Axis) -> np.ndarray:
    """Reorder the last axis of an array from (z, y, x) to (slice, row, column)."""
    first = AXES.index(slice_axis)
    return values_zyx[..., [first, *(axis for axis in range(3) if axis != first)]]


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
