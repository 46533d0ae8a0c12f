"""Voxel values become numbers near zero.

Owns: the two schemes of `ChannelPlan`, and the mask of the body that z-scoring may be held to.
Does not own: which scheme a channel takes (`planning/rules.py`).
"""

import numpy as np
from scipy import ndimage

from autoseg.plans import ChannelPlan

SMALLEST_RELATIVE_DEVIATION = 1e-7  # float32 resolves no less: an image that varies less is constant


def normalise(image: np.ndarray, *, plan: ChannelPlan, mask: np.ndarray | None = None) -> np.ndarray:
    """Normalise one channel of one scan.

    Args:
        image: Any real type and shape, without NaN.
        plan: `ct`: clip, then the dataset's mean and deviation. `zscore`: the scan's own mean and deviation.
        mask: Same shape, boolean. With `only_inside_mask` the statistics come from inside it and the outside becomes
            0; ignored otherwise.

    Returns:
        A new float32 array; all 0 where z-scoring meets a constant image or an empty mask.
    """
    result = image.astype(np.float32)  # a copy, so that the scan stays as it is
    if plan.scheme == "ct":
        np.clip(result, plan.clip_low, plan.clip_high, out=result)
        result -= np.float32(plan.mean)
        result /= np.float32(plan.standard_deviation)
        return result
    inside = mask if plan.only_inside_mask else None
    values = result if inside is None else result[inside]
    if values.size == 0:
        return np.zeros_like(result)
    mean = np.float32(values.mean(dtype=np.float64))
    deviation = float(np.sqrt(np.square(values - mean).mean(dtype=np.float64)))
    if deviation <= SMALLEST_RELATIVE_DEVIATION * abs(mean):
        return np.zeros_like(result)
    result -= mean
    result /= np.float32(deviation)
    if inside is not None:
        result[~inside] = 0
    return result


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Return the mask with the holes filled that no path of faces joins to the border of the grid.

    Air inside a head is 0 as the cut-away outside is, but belongs to the patient.
    """
    components, _ = ndimage.label(~mask)
    outside = np.zeros(int(components.max()) + 1, bool)
    for axis in range(mask.ndim):
        for end in (0, -1):
            outside[components.take(end, axis=axis)] = True
    outside[0] = False
    return ~outside[components]
