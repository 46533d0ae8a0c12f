"""Makes the preprocessed slices of a scan when they are requested.

Owns: `PreparedSlices`, which keeps the scan as it was read and only a few preprocessed slices; the order of the steps:
canonical axes, crop, slice axis first, scale, resample.
Does not own: the grid (`transform.py`), normalization (`normalization.py`), interpolation (`resampling.py`).

Symbols: C channels, S slices, R rows, W columns of the preprocessed grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autoseg.config.plans import DataPlan
from autoseg.errors import DatasetError
from autoseg.io.geometry import Box, canonical_axis_map, reorient
from autoseg.io.image import Scan
from autoseg.preprocessing.normalization import Scaling, fill_holes, measure_scaling, scale
from autoseg.preprocessing.resampling import Taps, axis_taps, resample_image, spline_orders, taps_between
from autoseg.preprocessing.transform import CaseTransform, filled_box, make_transform, slice_first

BLOCK_BYTES = 32 << 20  # of slices made together; a spline along the slices reads 32 more for each block
KEPT_SLICES = 16  # before the end of what was read last: the next slices have some of them for neighbors


@dataclass(frozen=True)
class PreparedSlices:
    """A preprocessed image (C, S, R, W) that is computed on access.

    It is indexed like an array, `slices[:, start:stop]`, and returns float32 with a mean near zero. Input slices that
    the next ones also need are cached.

    Attributes:
        transform: The transform between the file grid and the preprocessed grid.
        views: (S', R', W') per channel: the scan as it was read, cropped, slice axis first.
        scalings: One per channel.
        mask: The voxels of the body in the shape of the views, if a scaling needs them.
        taps: The taps for slices, rows and columns; None for an axis that does not change.
    """

    transform: CaseTransform
    views: tuple[np.ndarray, ...]
    scalings: tuple[Scaling, ...]
    mask: np.ndarray | None
    taps: tuple[Taps | None, Taps | None, Taps | None]
    _kept: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (C, S, R, W)."""
        return (len(self.views), *self.transform.resampled_shape)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        """Return some slices of all channels, `[:, start:stop]`: (C, stop - start, R, W)."""
        channels, wanted = key
        assert channels == slice(None) and wanted.step is None, "slices are read as [:, start:stop]"
        start, stop, _ = wanted.indices(self.shape[1])
        size = self._block_slices
        result = np.empty((self.shape[0], max(0, stop - start), *self.shape[2:]), np.float32)
        numbers = range(start // size, -(-stop // size)) if stop > start else range(0)
        for number in [number for number in self._kept if number not in numbers]:
            del self._kept[number]
        for number in numbers:
            first, last = number * size, min((number + 1) * size, self.shape[1])
            block = self._kept.pop(number, None)
            block = self._make(first, last) if block is None else block
            if last > stop - KEPT_SLICES:
                self._kept[number] = block
            low, high = max(start, first), min(stop, last)
            result[:, low - start : high - start] = block[:, low - first : high - first]
        return result

    @property
    def _block_slices(self) -> int:
        return max(1, BLOCK_BYTES // (4 * self.shape[0] * self.shape[2] * self.shape[3]))

    def _make(self, start: int, stop: int) -> np.ndarray:
        """Make slices of all channels: (C, stop - start, R, W)."""
        along, first, last = self.taps[0], start, stop
        if along is not None:
            along, first, last = taps_between(along, start, stop, n_in=len(self.views[0]))
        mask = None if self.mask is None else self.mask[first:last]
        block = np.empty((len(self.views), stop - start, *self.shape[2:]), np.float32)
        for index, (view, scaling) in enumerate(zip(self.views, self.scalings, strict=True)):
            block[index] = resample_image(scale(view[first:last], scaling, mask=mask), (along, *self.taps[1:]))
        return block


def prepare_slices(channels: Sequence[Scan], *, plan: DataPlan, modality: int = 0) -> PreparedSlices:
    """Measure everything that the slices of a scan need, without making any.

    Args:
        channels: One scan per channel, on the same grid, in the plan's order.
        plan: The data part of the plan.
        modality: The position of their modality in the plan.

    Raises:
        DatasetError: The number of channels is not the plan's, or their grids differ in shape.
        PlanError: The target spacing would make the grid impossibly large.
    """
    arrays = _check_channels(channels, plan=plan)
    transform = make_transform(channels[0].geometry, filled=_kept_box(arrays, plan=plan), plan=plan)
    kinds = plan.modalities[modality].channels
    mask = None
    if any(channel.nonzero_only for channel in kinds):
        mask = fill_holes(transform.view(np.logical_or.reduce([array != 0 for array in arrays])))
    views = tuple(transform.view(array) for array in arrays)
    canonical = reorient(transform.original, canonical_axis_map(transform.original))
    spacing = slice_first(canonical.spacing_zyx_mm, plan.slice_axis)
    orders = spline_orders(spacing, slice_first(plan.target_spacing_zyx_mm, plan.slice_axis))
    sizes = zip(transform.cropped_shape, transform.resampled_shape, orders, strict=True)
    along, rows, columns = (axis_taps(old, new, order=order) for old, new, order in sizes)
    scalings = tuple(measure_scaling(view, plan=channel, mask=mask) for view, channel in zip(views, kinds, strict=True))
    return PreparedSlices(transform, views, scalings, mask, (along, rows, columns))


def _kept_box(arrays: Sequence[np.ndarray], *, plan: DataPlan) -> Box | None:
    return filled_box(arrays) if plan.crop_to_nonzero else None


def _check_channels(channels: Sequence[Scan], *, plan: DataPlan) -> list[np.ndarray]:
    if len(channels) != len(plan.channels):
        names = ", ".join(channel.name for channel in plan.channels)
        raise DatasetError(
            f"{len(channels)} channels given; the plan expects {len(plan.channels)}: {names}. Give just these."
        )
    shape = channels[0].array_zyx.shape
    for other in channels[1:]:
        if other.array_zyx.shape != shape:
            raise DatasetError(
                f"channels of one case differ in shape_zyx: {shape} and {other.array_zyx.shape}. Resample one of them."
            )
    return [channel.array_zyx for channel in channels]
