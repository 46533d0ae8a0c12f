"""Brings the slices of a scan to the device of the network.

Owns: `SlicesOnDevice`. On a CPU, `PreparedSlices` makes the slices; a GPU scales and resamples them itself from the
voxels of the file, since the CPU would take several times as long as the network.

Symbols: C channels, S slices, R rows, W columns of the preprocessed grid.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from autoseg.preprocessing.normalization import Scaling
from autoseg.preprocessing.resampling import Taps, apply_taps, taps_between
from autoseg.preprocessing.slices import PreparedSlices

MOVED_AS_THEY_ARE = (np.uint8, np.int16, np.int32, np.float32)  # other types become float32 before


@dataclass(frozen=True)
class SlicesOnDevice:
    """A preprocessed image (C, S, R, W) whose slices are brought to the device.

    Attributes:
        image: The result of `prepare_slices`, or an array on the preprocessed grid.
        device: The device of the network.
        is_made_there: Whether to scale and resample on the device; only for `PreparedSlices`.
    """

    image: np.ndarray | PreparedSlices
    device: torch.device
    is_made_there: bool

    def read_ahead(self, spans: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """Yield (C, stop - start, R, W) for each (start, stop); the next is read while one is processed."""
        with ThreadPoolExecutor(1, "slices") as reading:
            coming = [reading.submit(self.read, *span) for span in spans[:1]]
            for number in range(len(spans)):
                now = coming.pop().result()
                coming += [reading.submit(self.read, *span) for span in spans[number + 1 : number + 2]]
                yield now

    @torch.inference_mode()
    def read(self, start: int, stop: int) -> Tensor:
        """Return some slices: (C, stop - start, R, W) float32."""
        if not self.is_made_there:
            return self._move(np.asarray(self.image[:, start:stop]).astype(np.float32, copy=False))
        assert isinstance(self.image, PreparedSlices)
        along, first, last = self.image.taps[0], start, stop
        if along is not None:
            along, first, last = taps_between(along, start, stop, n_in=len(self.image.views[0]))
        mask = None if self.image.mask is None else self._move(self.image.mask[first:last])
        rows, columns = self._in_plane
        made = []
        for view, scaling in zip(self.image.views, self.image.scalings, strict=True):
            part = _scale(self._move(view[first:last]), scaling, mask=mask)  # (n, R', W')
            part = part if rows is None else rows @ part
            part = part if columns is None else part @ columns.T
            if along is not None:
                part = torch.tensordot(self._operator(along, last - first), part, dims=1)
            made.append(part)
        return torch.stack(made)

    @cached_property
    def _in_plane(self) -> tuple[Tensor | None, Tensor | None]:
        """Return (R, R') and (W, W'), the matrices that resample rows and columns; None for an axis that stays."""
        assert isinstance(self.image, PreparedSlices)
        sizes = self.image.views[0].shape[1:]
        taps = self.image.taps[1:]
        rows, columns = (None if t is None else self._operator(t, n) for t, n in zip(taps, sizes, strict=True))
        return rows, columns

    def _operator(self, taps: Taps, n_in: int) -> Tensor:
        """Return resampling as its matrix (n_out, n_in), from its result for each single sample."""
        return self._move(apply_taps(np.eye(n_in, dtype=np.float32), taps, axis=0))

    def _move(self, array: np.ndarray) -> Tensor:
        if array.dtype != bool and array.dtype not in MOVED_AS_THEY_ARE:
            array = array.astype(np.float32)
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor if self.device.type != "cuda" else tensor.pin_memory().to(self.device, non_blocking=True)


def bring_to(device: torch.device, image: np.ndarray | PreparedSlices) -> SlicesOnDevice:
    """Choose where slices are made: on the device if it is a GPU and the image is not preprocessed yet."""
    return SlicesOnDevice(image, device, is_made_there=device.type == "cuda" and isinstance(image, PreparedSlices))


def _scale(image: Tensor, scaling: Scaling, *, mask: Tensor | None) -> Tensor:
    """Scale a part of a channel as `preprocessing.normalization.scale` does."""
    if not scaling.deviation:
        return torch.zeros(image.shape, device=image.device)
    result = image.float()
    if scaling.clip is not None:
        result = result.clamp(*scaling.clip)
    result = (result - scaling.mean) / scaling.deviation
    if scaling.nonzero_only:
        assert mask is not None
        result = result.masked_fill(~mask, 0)
    return result
