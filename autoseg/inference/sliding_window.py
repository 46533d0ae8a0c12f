"""Predicts the slices of a case in batches, with a sliding window in-plane where they exceed it, and mirroring.

Owns: `predict_slices`, which yields probability maps in order and keeps nothing of size (organs x scan); the memories
of a case.
Does not own: how a scan becomes slices (`device_slices.py`), how maps become a label map (`preprocessing/inverse.py`),
the order of slices with a memory (`slice_order.py`).

Legend: S slices, B of them at once, C channels, N neighboring slices, K organs asked for, R x W a slice, r x w the
window.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.config.plans import InferencePlan, Plans
from autoseg.inference.cpu_threads import ONE_CORE, Cores
from autoseg.inference.device_slices import bring_to
from autoseg.inference.organ_prompts import PlacedPointPrompts
from autoseg.inference.slice_order import order_slices
from autoseg.inference.tiles import Corner, Tiles, tile
from autoseg.network.context_slices import context_slice_numbers
from autoseg.network.memory.memory_bank import MemoryBank
from autoseg.network.point_prompts import PointPrompts
from autoseg.preprocessing.slices import PreparedSlices
from autoseg.system.torch_device import mixed_precision

SIGMA_FRACTION = 0.25  # of the side of the window; the weight falls to 0.14 at the middle of its edge
# The memory of the maps of slices predicted at once, by kind of device; computing them needs about four times as much.
MAPS_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
Banks = dict[tuple[Corner, tuple[int, ...], int], MemoryBank | None]  # by window, mirroring and fold


def predict_slices(
    networks: Sequence[nn.Module],
    image: np.ndarray | PreparedSlices,
    *,
    plans: Plans,
    organs: Sequence[int],
    device: torch.device,
    point_prompts: PlacedPointPrompts | None = None,
    cores: Cores = ONE_CORE,
) -> Iterator[Tensor]:
    """Predict a case, some slices at a time.

    Args:
        networks: One network, or the networks of several folds, whose outputs are averaged.
        image: (C, S, R, W) preprocessed; read a few slices at a time, from first to last.
        plans: The plan, with window, overlap, mirroring and batch.
        organs: (K) rows of the networks' text, `plans.data.text_row`.
        device: The device of the networks.
        point_prompts: Points and boxes on the organs asked for, or None.
        cores: The cores that divide a batch.

    Yields:
        Maps (n, 1 + K, R, W) of probabilities of the next n slices, background first, float32, on the device.
    """
    tiles = tile(image.shape[2:], plans=plans)
    weight = torch.from_numpy(gaussian_weight(tiles.window)).to(device)
    asked = torch.tensor(list(organs), device=device)
    banks: Banks = {}
    size = _slices_at_once(tiles, plans=plans, num_organs=len(asked), cores=cores, device=device)
    for near in _slabs(
        image,
        size=plans.inference.slab_slices if plans.network.memory_slices else size,
        reach=plans.network.context_slices,
        device=device,
    ):
        order: Sequence[int] = near.slab
        if plans.network.memory_slices:
            order = order_slices(near.own, near.slab, order=plans.inference.slice_order)
        maps: list[Tensor] = []
        for start in range(0, len(near.slab), size):
            numbers = order[start : start + size]
            images = tiles.pad(near.stack(numbers))
            encoded_prompts = None if point_prompts is None else partial(point_prompts.in_window, numbers, tiles)
            predict = partial(
                _predict_window,
                networks,
                asked,
                plans=plans,
                positions=numbers,
                banks=banks,
                cores=cores,
                encoded_prompts=encoded_prompts,
            )
            maps.append(_blend(images, tiles, predict=predict, weight=weight))
        yield maps.pop() if len(maps) == 1 else _in_order(maps, order)


def _in_order(maps: list[Tensor], order: Sequence[int]) -> Tensor:
    """Concatenate the maps of slices in ascending order; the list is emptied to free memory."""
    slices = [one for part in maps for one in part]
    maps.clear()
    return torch.stack([slices[place] for place in np.argsort(order)])


def _slabs(image: np.ndarray | PreparedSlices, *, size: int, reach: int, device: torch.device) -> Iterator["_Near"]:
    """Split a case into slices whose maps are in memory together: a slab if they are reordered, else a batch."""
    num_slices = image.shape[1]
    slabs = [range(start, min(num_slices, start + size)) for start in range(0, num_slices, size)]
    spans = [(max(0, slab.start - reach), min(num_slices, slab.stop + reach)) for slab in slabs]
    slices = bring_to(device, image).read_ahead(spans)
    for slab, (first, _last), near in zip(slabs, spans, slices, strict=True):
        yield _Near(near, first, slab, num_slices, reach)


def _slices_at_once(tiles: Tiles, *, plans: Plans, num_organs: int, cores: Cores, device: torch.device) -> int:
    """Return the plan's batch, or less if the maps of many organs would fill the memory; at least one per core."""
    map_bytes = 4 * (1 + num_organs) * tiles.padded[0] * tiles.padded[1]
    return max(1, min(plans.inference.slices_per_batch, max(cores.num, MAPS_BYTES[device.type] // map_bytes)))


@torch.inference_mode()
def gaussian_weight(window: tuple[int, int]) -> np.ndarray:
    """Return Gaussian weights (r, w) that favor the center of a window: at most 1, nowhere zero."""
    profiles = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (SIGMA_FRACTION * n)) ** 2) for n in window]
    return np.outer(*profiles).astype(np.float32)


def _blend(images: Tensor, tiles: Tiles, *, predict: Callable[[Tensor, Corner], Tensor], weight: Tensor) -> Tensor:
    """Predict the windows of padded slices and average them where they overlap, their middles counting more."""
    inner = _box(tiles.before, tiles.shape)
    if len(tiles.corners) == 1:
        return predict(images, tiles.corners[0])[inner]
    total: Tensor | None = None
    norm = torch.zeros(tiles.padded, device=images.device)
    for corner in tiles.corners:
        window = _box(corner, tiles.window)
        probs = predict(images[window], corner)  # (B, 1 + K, r, w)
        if total is None:
            total = torch.zeros(*probs.shape[:2], *tiles.padded, device=images.device)
        total[window] += weight * probs
        norm[window] += weight
    assert total is not None
    return (total / norm)[inner]


def _box(start: Corner, size: tuple[int, int]) -> tuple[EllipsisType, slice, slice]:
    (row, column), (rows, columns) = start, size
    return ..., slice(row, row + rows), slice(column, column + columns)


def _predict_window(
    networks: Sequence[nn.Module],
    organs: Tensor,
    images: Tensor,
    corner: Corner,
    *,
    plans: Plans,
    positions: Sequence[int],
    banks: Banks,
    cores: Cores,
    encoded_prompts: Callable[[Corner], PointPrompts] | None,
) -> Tensor:
    """Predict one window of some slices: (B, N * C, r, w) to (B, 1 + K, r, w).

    With a memory the slices take their turns, and `banks` is moved on; without one they are shared out over the cores.
    """
    predict = partial(_predict_part, networks, organs, plans=plans.inference)
    point_prompts = None if encoded_prompts is None else encoded_prompts(corner).to(images.device)
    if not plans.network.memory_slices:

        def predict_part(part: slice) -> Tensor:
            return predict(images[part], point_prompts=None if point_prompts is None else point_prompts.take(part))

        parts = cores.parts(len(images))
        if len(parts) == 1:
            return predict(images, point_prompts=point_prompts)
        return torch.cat(cores.map(predict_part, parts))
    turns = torch.tensor([list(positions)], device=images.device)  # (1, B)
    return predict(images, point_prompts=point_prompts, positions=turns, banks=banks, corner=corner)


@torch.inference_mode()
def _predict_part(
    networks: Sequence[nn.Module],
    organs: Tensor,
    images: Tensor,
    *,
    plans: InferencePlan,
    point_prompts: PointPrompts | None = None,
    positions: Tensor | None = None,
    banks: Banks | None = None,
    corner: Corner = (0, 0),
) -> Tensor:
    """Average the probabilities of some slices over folds and mirrored copies, each with a memory of its own."""
    total: Tensor | None = None
    axes = {"row": 2, "column": 3}
    flips = [flip for n in range(3) for flip in itertools.combinations([axes[a] for a in plans.mirror_axes], n)]
    for flip, (number, network) in itertools.product(flips, enumerate(networks)):
        key = (corner, flip, number)
        bank = None if banks is None else banks.get(key)
        encoded_prompts = (
            None if point_prompts is None else point_prompts.flip(flip, window=(images.shape[-2], images.shape[-1]))
        )
        with mixed_precision(images.device):
            output = network(images.flip(flip), organs, point_prompts=encoded_prompts, positions=positions, bank=bank)
        if banks is not None:
            banks[key] = output.bank
        logits = output.logits
        probs = logits.float().softmax(dim=1).flip(flip)
        total = probs if total is None else total + probs
    assert total is not None
    return total / (len(flips) * len(networks))


@dataclass(frozen=True)
class _Near:
    """The slices of a slab and those around it.

    Attributes:
        slices: (C, n, R, W), on the device.
        first: Number of the first of them in the case.
        slab: The slab's own numbers.
        num_slices: Of the case.
        reach: Neighbors on each side that the network is shown.
    """

    slices: Tensor
    first: int
    slab: range
    num_slices: int
    reach: int

    @property
    def own(self) -> Tensor:
        """The slab without what is around it."""
        return self.slices[:, self.slab.start - self.first : self.slab.stop - self.first]

    def stack(self, positions: Sequence[int]) -> Tensor:
        """Stack slices of the slab with their neighbors: (B, N * C, R, W)."""
        numbers = context_slice_numbers(np.array(positions), num_slices=self.num_slices, reach=self.reach)  # (B, N)
        stacked = self.slices[:, torch.from_numpy(numbers - self.first)]  # (C, B, N, R, W)
        return stacked.permute(1, 2, 0, 3, 4).flatten(1, 2)
