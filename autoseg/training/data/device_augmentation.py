"""Augments the slices and labels of a batch with torch, on the device that trains.

Owns: `change`, which does to all clips of a batch at once what `augmentation.py` does to one on a CPU, in its order.
Does not own: which changes, and how strong (`augmentation_draws.py`).

The noise comes from the device's own generator, seeded for each clip, so it depends on seed, step and kind of device.

Legend: V clips of T slices, N neighboring slices, C channels, S = T * N planes of a channel, R x W the window; v the
clips that get a change.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.training.data.augmentation import BLUR_SIGMA_PX
from autoseg.training.data.augmentation_draws import Changes
from autoseg.training.data.batch import Batch

BLUR_REACH = 4.0  # deviations, as SciPy's gaussian_filter has it
PLANES = (1, 3, 4)  # axes over which a channel's mean and deviation are taken
LEAST_RANGE, LEAST_DEVIATION = 1e-7, 1e-8  # of a constant channel, as batchgenerators has them


def make_changes(batch: Batch) -> Batch:
    """Apply the pending changes of a batch on the device; a batch without any is returned as it is."""
    if batch.changes is None:
        return batch
    images, labels = change(batch.images, batch.labels, batch.changes)
    return replace(batch, images=images, labels=labels, changes=None)


@torch.no_grad()
def change(images: Tensor, labels: Tensor, changes: Changes) -> tuple[Tensor, Tensor]:
    """Change slices and labels together; returns new tensors of the same shapes and types.

    Args:
        images: (V * T, N * C, R, W) float32: the channels of a slice's neighbors, one neighbor after the other.
        labels: (V * T, R, W) integers; negative ones are ignored, and stay so.
        changes: The changes of the V clips.
    """
    num_clips, (rows, columns) = len(changes.clips), labels.shape[-2:]
    planes = images.clone().view(num_clips, -1, changes.num_channels, rows, columns)  # (V, S, C, R, W)
    maps = labels.clone().view(num_clips, -1, rows, columns)  # (V, T, R, W)
    for axis, dim in (("slice", 1), ("row", -2), ("column", -1)):  # with the planes, the clip runs the other way
        places = [place for place, clip in enumerate(changes.clips) if axis in clip.mirrored]
        for tensor in (planes, maps):
            _change_some(tensor, places, torch.flip, (dim,))
    places, turns = _find(changes, "turn")
    if places:
        grid = _turned_grid(_to_device(turns, planes), shape=(rows, columns))  # (v, R, W, 2)
        _change_some(planes, places, _read_between, grid)
        _change_some(maps, places, _read_nearest, grid)
    _change_channels(planes, changes, "brightness", torch.mul)
    _change_channels(planes, changes, "contrast", _stretch)
    _change_channels(planes, changes, "gamma", _bend)
    _add_noise(planes, changes)
    _change_channels(planes, changes, "blur_px", _blur)  # after noise: that of interpolated scans is smooth
    return planes.view_as(images), maps.view_as(labels)


def _change_channels(planes: Tensor, changes: Changes, name: str, act: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Change the planes of the clips that get this change, by a strength per channel or one for all."""
    places, values = _find(changes, name)
    if places:
        _change_some(planes, places, act, _to_device(values, planes).view(len(places), 1, -1, 1, 1))


def _change_some(tensor: Tensor, places: Sequence[int], act: Callable[..., Tensor], *arguments: object) -> None:
    """Replace some clips by the result of `act`."""
    if places:
        index = torch.tensor(places).to(tensor.device, non_blocking=True)
        tensor.index_copy_(0, index, act(tensor.index_select(0, index), *arguments))


def _find(changes: Changes, name: str) -> tuple[list[int], list[object]]:
    """Return which clips get a change, and its strength in each."""
    found = [(place, getattr(clip, name)) for place, clip in enumerate(changes.clips)]
    found = [(place, value) for place, value in found if value is not None]
    return [place for place, _ in found], [value for _, value in found]


def _to_device(values: Sequence[object], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to(like.device, non_blocking=True)  # without waiting for the GPU


def _turned_grid(turns: Tensor, *, shape: tuple[int, int]) -> Tensor:
    """Return where each pixel is read, in the coordinates of `grid_sample`: (v, R, W, 2), column first.

    `turns` are (v, 2) radians and scales; a larger scale reads from further apart, so objects become smaller.
    """
    rows, columns = (torch.arange(size, device=turns.device) - (size - 1) / 2 for size in shape)
    rows, columns = rows[:, None], columns[None, :]
    angle, scale = turns[:, 0].view(-1, 1, 1), turns[:, 1].view(-1, 1, 1)
    # spelled out, since a matrix product may be computed in TensorFloat32, a quarter of a pixel off
    read_rows = scale * (rows * angle.cos() + columns * angle.sin())
    read_columns = scale * (columns * angle.cos() - rows * angle.sin())
    half_rows, half_columns = ((size - 1) / 2 for size in shape)
    return torch.stack([read_columns / half_columns, read_rows / half_rows], dim=-1)


def _read_between(planes: Tensor, grid: Tensor) -> Tensor:
    """Interpolate (v, S, C, R, W) planes at the grid's places; the border continues outwards."""
    flat = planes.flatten(1, 2)
    return F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=True).view_as(planes)


def _read_nearest(maps: Tensor, grid: Tensor) -> Tensor:
    """Read (v, T, R, W) labels at the pixels nearest to the grid's places; float32 holds every label as it is."""
    read = F.grid_sample(maps.float(), grid, mode="nearest", padding_mode="border", align_corners=True)
    return read.to(maps.dtype)


def _stretch(some: Tensor, factors: Tensor) -> Tensor:
    """Change contrast around each channel's mean, within its range."""
    mean, least, most = some.mean(PLANES, keepdim=True), some.amin(PLANES, True), some.amax(PLANES, True)
    return ((some - mean) * factors + mean).clamp(least, most)


def _bend(some: Tensor, exponents: Tensor) -> Tensor:
    """Raise each channel, between its least and its largest value, to a power; mean and deviation stay."""
    mean, deviation = some.mean(PLANES, keepdim=True), some.std(PLANES, correction=0, keepdim=True)
    least, most = some.amin(PLANES, True), some.amax(PLANES, True)
    bent = ((some - least) / (most - least + LEAST_RANGE)) ** exponents
    bent = bent - bent.mean(PLANES, keepdim=True)
    return bent / (bent.std(PLANES, correction=0, keepdim=True) + LEAST_DEVIATION) * deviation + mean


def _add_noise(planes: Tensor, changes: Changes) -> None:
    for plane, clip in zip(planes, changes.clips, strict=True):
        if clip.noise is not None:
            generator = torch.Generator(planes.device).manual_seed(clip.seed)
            plane += clip.noise * torch.randn(plane.shape, generator=generator, device=planes.device)


def _blur(some: Tensor, deviations_px: Tensor) -> Tensor:
    """Blur every plane by two matrix products, which is exact at the borders and quick on a GPU."""
    rows, columns = (_blur_matrix(deviations_px.view(-1, 1), size)[:, None, None] for size in some.shape[-2:])
    return rows @ some @ columns.mT


def _blur_matrix(deviations_px: Tensor, size: int) -> Tensor:
    """Return (v, size, size) matrices that blur a line with each of (v, 1) deviations, mirrored at its ends."""
    reach = int(BLUR_REACH * BLUR_SIGMA_PX[1] + 0.5)
    offsets = torch.arange(-reach, reach + 1, device=deviations_px.device)  # (O,)
    weights = torch.exp(-0.5 * (offsets / deviations_px) ** 2)  # (v, O)
    weights = weights * (offsets.abs() <= (BLUR_REACH * deviations_px + 0.5).floor())
    weights = weights / weights.sum(1, keepdim=True)
    places = torch.arange(size, device=offsets.device)[:, None] + offsets  # (size, O); -1 is 0 again, size is size - 1
    places = places.remainder(2 * size)
    places = torch.where(places < size, places, 2 * size - 1 - places)
    matrix = torch.zeros(len(weights), size, size, device=offsets.device)
    return matrix.scatter_add_(2, places.expand(len(weights), -1, -1), weights[:, None].expand(-1, size, -1))
