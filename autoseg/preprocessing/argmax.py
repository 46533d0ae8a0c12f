"""Finds the argmax of probability maps at each pixel of a plane between two slices.

Owns: `find_argmax`, on the device of the maps: a GPU handles several planes in a few large steps, a CPU one plane map
by map.

Legend: n planes, K organs, R x W a slice, r x w a plane.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Sides:
    """The slices on both sides of n planes.

    Attributes:
        below: n maps (1 + K, R, W), background first.
        above: n maps of the same shape.
        shares: (n) interpolation weights of the slices above.
    """

    below: Sequence[Tensor]
    above: Sequence[Tensor]
    shares: np.ndarray


@dataclass(frozen=True)
class Planes:
    """Some planes of the file, cropped.

    Attributes:
        argmax: (n, r, w) uint8 or int32; the first map wins a tie, the background wins at NaN.
        largest: (n, r, w) the largest value.
        maps: (n, 1 + K, r, w) all values, if they are asked for, or None.
    """

    argmax: Tensor
    largest: Tensor
    maps: Tensor | None = None


def find_argmax(sides: Sides, *, shape: tuple[int, int], keep_maps: bool = False) -> Planes:
    """Interpolate maps linearly between slices and to `shape` in-plane, and find the largest."""
    if len(sides.below) == 1 and not (sides.below[0].is_cuda or keep_maps):
        return find_one_by_one(sides, shape=shape)
    planes = find_at_once(sides, shape=shape)
    return planes if keep_maps else replace(planes, maps=None)


def find_one_by_one(sides: Sides, *, shape: tuple[int, int]) -> Planes:
    """Compare one map after the other for a single plane, so that the maps fit into a CPU's cache.

    Maps that are nowhere above the background, which are most of many, stay so under interpolation and are skipped.
    """
    (first,), (second,), share = sides.below, sides.above, float(sides.shares[0])
    largest = _interpolate(first[:1], second[:1], shares=share, shape=shape)[0]
    dtype = _index_type(len(first))
    argmax = torch.zeros(shape, dtype=dtype)
    for number in range(1, len(first)):
        pair = (first, second) if share > 0 else (first,)
        if any(bool((maps[number] > maps[0]).any()) for maps in pair):
            one = _interpolate(first[number, None], second[number, None], shares=share, shape=shape)[0]
            argmax = argmax.maximum(
                (one > largest) * torch.tensor(number, dtype=dtype)
            )  # numbers rise, so the last one above wins
            largest = largest.maximum(one)
    return Planes(argmax[None], largest[None])


def find_at_once(sides: Sides, *, shape: tuple[int, int]) -> Planes:
    """Compare all maps of all planes at once, without synchronizing with a GPU."""
    first = torch.stack(list(sides.below))
    second, shares = first, None
    if sides.shares.any():
        second = torch.stack(list(sides.above))
        shares = torch.from_numpy(np.ascontiguousarray(sides.shares)).to(first.device)[:, None, None, None]
    maps = _interpolate(first, second, shares=0.0 if shares is None else shares, shape=shape)  # (n, 1 + K, r, w)
    largest = maps.amax(dim=1)
    dtype = _index_type(maps.shape[1])
    from_last = torch.arange(maps.shape[1], 0, -1, dtype=dtype, device=maps.device)  # the first of several wins
    place = ((maps == largest[:, None]) * from_last[:, None, None]).amax(dim=1)  # 0: not even the largest is, it is NaN
    return Planes(torch.where(place > 0, maps.shape[1] - place, 0).to(dtype), largest, maps)


def _interpolate(first: Tensor, second: Tensor, *, shares: float | Tensor, shape: tuple[int, int]) -> Tensor:
    """Interpolate maps (.., R, W) between two slices, with weights `shares` of the second, and to a shape in-plane."""
    maps = first.float()
    if isinstance(shares, Tensor) or shares > 0:
        maps = maps.lerp(second.float(), shares)
    if maps.shape[-2:] == shape:
        return maps
    batch = maps if maps.ndim == 4 else maps[None]
    return F.interpolate(batch, size=shape, mode="bilinear", align_corners=False).view(*maps.shape[:-2], *shape)


def _index_type(num_maps: int) -> torch.dtype:
    return torch.uint8 if num_maps <= 255 else torch.int32
