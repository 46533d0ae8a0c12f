"""Normalizes intensities.

Owns: the two schemes of `ChannelPlan`, measured on the whole image (`measure_scaling`) and applied to any part of it
(`scale`), and the mask of the body that z-scoring may be restricted to.
Does not own: which scheme a channel uses (`planning/rules/`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autoseg.config.plans import ChannelPlan

SMALLEST_RELATIVE_DEVIATION = 1e-7  # float32 resolves no less: an image that varies less is constant
PART_VALUES = 1 << 20  # looked at together: 4 MiB, so that they stay in the cache


@dataclass(frozen=True)
class Scaling:
    """The normalization of one channel of one scan.

    Attributes:
        mean: The value that is subtracted.
        deviation: The value to divide by; 0 for a constant image, which becomes 0 everywhere.
        clip: The smallest and largest value after clipping, or None.
        nonzero_only: Whether voxels outside the mask become 0.
    """

    mean: float
    deviation: float
    clip: tuple[float, float] | None = None
    nonzero_only: bool = False


def measure_scaling(image: np.ndarray, *, plan: ChannelPlan, mask: np.ndarray | None = None) -> Scaling:
    """Measure how a channel is scaled, without a second array of the image's size.

    Args:
        image: Any real type and shape, without NaN.
        plan: `ct`: clip, then the dataset's mean and deviation. `zscore`: the scan's own mean and deviation.
        mask: Boolean, same shape. With `nonzero_only` only voxels inside count; ignored otherwise.
    """
    if plan.normalization == "ct":
        return Scaling(plan.mean, plan.std, clip=(plan.clip_low, plan.clip_high))
    inside = mask if plan.nonzero_only else None
    count, total = 0, 0.0
    for values in _parts(image, inside):
        count, total = count + values.size, total + float(values.sum(dtype=np.float64))
    mean = np.float32(total / count) if count else np.float32(0)
    squares = sum(float(np.square(values - mean).sum(dtype=np.float64)) for values in _parts(image, inside))
    deviation = float(np.sqrt(squares / count)) if count else 0.0
    if deviation <= SMALLEST_RELATIVE_DEVIATION * abs(mean):
        deviation = 0.0
    return Scaling(float(mean), deviation, nonzero_only=inside is not None)


def scale(image: np.ndarray, scaling: Scaling, *, mask: np.ndarray | None = None) -> np.ndarray:
    """Scale a channel or a part of it, such as some of its slices.

    Args:
        image: Any real type and shape.
        scaling: The scaling of the whole channel.
        mask: Same shape; required if the scaling is `nonzero_only`.

    Returns:
        A new float32 array.
    """
    if not scaling.deviation:
        return np.zeros(image.shape, np.float32)
    result = image.astype(np.float32)  # a copy, so that the scan stays as it is
    if scaling.clip is not None:
        np.clip(result, *scaling.clip, out=result)
    result -= np.float32(scaling.mean)
    result /= np.float32(scaling.deviation)
    if scaling.nonzero_only:
        assert mask is not None
        result[~mask] = 0
    return result


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return the mask with its holes filled, that is, without background that is not face-connected to the border.

    Air inside a head is 0, as the removed background is, but belongs to the patient.
    """
    components, _ = ndimage.label(~mask)
    outside = np.zeros(int(components.max()) + 1, bool)
    for axis in range(mask.ndim):
        for end in (0, -1):
            outside[components.take(end, axis=axis)] = True
    outside[0] = False
    return ~outside[components]


def _parts(image: np.ndarray, mask: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield the values inside the mask as float32, a few slices at a time."""
    step = max(1, PART_VALUES // max(1, image[:1].size))
    for start in range(0, len(image), step):
        part = image[start : start + step].astype(np.float32)
        yield part if mask is None else part[mask[start : start + step]]
