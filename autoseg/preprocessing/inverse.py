"""Brings the network's maps back to the scan's own grid, as a label map: the inverse of `pipeline.py`.

Owns: `LabelMapWriter` and `undo_preprocessing`: which maps make which plane of the file, and the copy to the CPU.
Does not own: the grid (`transform.py`), the argmax (`argmax.py`).

Symbols: K organs, S slices, R rows, W columns of the preprocessed grid.
"""

import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoseg.errors import GeometryError
from autoseg.preprocessing.argmax import Planes, Sides, find_argmax
from autoseg.preprocessing.resampling import linear_taps
from autoseg.preprocessing.transform import CaseTransform

PACKING_LEVEL = 1  # of label planes: to a tenth of their size or less, in about a millisecond for 512 x 512
UNSURE = 255  # stands for no probability at all
PLANES_ON_CPU, PLANES_ON_GPU = 1, 16  # of the file, worked on at once


def undo_preprocessing(
    maps: Iterable[Tensor],
    *,
    transform: CaseTransform,
    organ_values: Sequence[int],
    uncertainty_zyx: np.ndarray | None = None,
    percent_kzyx: np.ndarray | None = None,
) -> np.ndarray:
    """Resample the network's maps to the grid of the file, as a label map with the dataset's values.

    The maps are interpolated linearly before the argmax, one slice of the file at a time, or a few on a GPU. At most
    twice the maps that arrive at once are in memory, never (organs x full grid). Labels are compressed until the last
    map has arrived, so that the full label map does not occupy memory next to the network.

    Args:
        maps: (n, 1 + K, R, W) of the next n preprocessed slices, any n, background first; logits or probs, any float.
        transform: The transform of `preprocess_case`.
        organ_values: The K values of the organs in the dataset.
        uncertainty_zyx: uint8 on the file grid, to be filled: 0 where the predicted class has probability 1, up to 255
            for probability 0. Needs maps of probabilities.
        percent_kzyx: uint8, (K, ..) on the file grid, to be filled with the organs' probabilities in percent; it does
            not change outside the crop box.

    Returns:
        uint8, or uint16 for values over 255, on the file grid; background outside the crop box. The background wins a
        tie, then the first organ.

    Raises:
        GeometryError: The number or the shape of the maps is not that of the preprocessed grid.
    """
    writer = LabelMapWriter(
        transform, organ_values=organ_values, uncertainty_zyx=uncertainty_zyx, percent_kzyx=percent_kzyx
    )
    for some in maps:
        writer.add(some)
    return writer.finish()


class LabelMapWriter:
    """Makes the label map of the file from the maps of preprocessed slices, as they arrive.

    Example:
        >>> writer = LabelMapWriter(prepared.transform, organ_values=[1, 2])
        >>> for probs in predict_slices(...):
        ...     writer.add(probs)
        >>> labels_zyx = writer.finish()
    """

    def __init__(
        self,
        transform: CaseTransform,
        *,
        organ_values: Sequence[int],
        uncertainty_zyx: np.ndarray | None = None,
        percent_kzyx: np.ndarray | None = None,
    ) -> None:
        """Begin without maps; the arguments are those of `undo_preprocessing`."""
        values = np.array([0, *organ_values], np.uint8 if max(organ_values, default=0) <= 255 else np.uint16)
        targets = _Targets(
            None if uncertainty_zyx is None else transform.view(uncertainty_zyx),
            None if percent_kzyx is None else [transform.view(one) for one in percent_kzyx],
        )
        self._transform, self._num_maps = transform, len(values)
        self._with_uncertainty, self._keep_maps = uncertainty_zyx is not None, percent_kzyx is not None
        self._packed = _PackedPlanes(values, targets)
        self._packing = ThreadPoolExecutor(1, "packing")  # and waits for a GPU, while the next maps are computed
        self._coming: list[Future[None]] = []
        self._along = linear_taps(transform.resampled_shape[0], transform.cropped_shape[0])
        self._last: Tensor | None = None  # the slice before those at hand
        self._num_slices = self._num_planes = 0  # that have come, and that are made

    def add(self, maps: Tensor) -> None:
        """Add the maps (n, 1 + K, R, W) of the next n slices, and make the planes of the file before them.

        Raises:
            GeometryError: There are too many slices, or they have another shape than the preprocessed grid.
        """
        self._check(maps)
        at_once = PLANES_ON_GPU if maps.is_cuda else PLANES_ON_CPU
        start, along = self._num_slices, self._along
        ready = int(np.searchsorted(along.indices[1], start + len(maps)))  # planes whose both sides have come
        while self._num_planes < ready:
            piece = slice(self._num_planes, min(self._num_planes + at_once, ready))
            places = (along.indices[:, piece] - start).tolist()  # -1 is the last one of those before
            last = self._last
            below, above = ([maps[i] if i >= 0 or last is None else last for i in side] for side in places)
            sides = Sides(below, above, shares=along.weights[1, piece])
            planes = find_argmax(sides, shape=self._transform.cropped_shape[1:], keep_maps=self._keep_maps)
            arriving = _bring(planes, with_uncertainty=self._with_uncertainty)
            self._coming.append(self._packing.submit(self._packed.add, arriving, self._num_planes))
            self._num_planes = piece.stop
        self._num_slices += len(maps)
        self._last = maps[-1].clone()  # a copy, or it would keep all of them

    def finish(self) -> np.ndarray:
        """Return the label map, as `undo_preprocessing` does.

        Raises:
            GeometryError: Slices are missing.
        """
        num_slices = self._transform.resampled_shape[0]
        if self._num_slices != num_slices:
            raise GeometryError(f"the prediction ended after {self._num_slices} of {num_slices} slices.")
        self._packing.shutdown()
        for one in self._coming:
            one.result()
        return self._packed.lay_out(self._transform)

    def _check(self, maps: Tensor) -> None:
        num_slices, rows, columns = self._transform.resampled_shape
        expected, count = (self._num_maps, rows, columns), self._num_slices
        if maps.shape[1:] != expected or count + len(maps) > num_slices:
            raise GeometryError(
                f"slices {count} to {count + len(maps) - 1} of the prediction have the shape {tuple(maps.shape[1:])}; "
                f"expected {num_slices} slices {expected}."
            )


@dataclass(frozen=True)
class _Targets:
    """The arrays that are filled besides the labels, slice axis first.

    Attributes:
        unsure: (planes, rows, columns), or None.
        percent: (K, planes, rows, columns), or None.
    """

    unsure: np.ndarray | None
    percent: list[np.ndarray] | None

    def part(self, start: int, stop: int) -> "_Targets":
        """Cut out some planes."""
        return _Targets(
            None if self.unsure is None else self.unsure[start:stop],
            None if self.percent is None else [one[start:stop] for one in self.percent],
        )


@dataclass(frozen=True)
class _Arriving:
    """Planes that are being copied to the CPU.

    Attributes:
        argmax: The argmax of the maps.
        unsure: uint8, or None.
        percent: (n, K, rows, columns) uint8, or None.
        done: The event when all are copied; None if they already are.
    """

    argmax: Tensor
    unsure: Tensor | None
    percent: Tensor | None
    done: torch.cuda.Event | None


def _bring(planes: Planes, *, with_uncertainty: bool) -> _Arriving:
    """Begin to copy the planes to the CPU."""
    unsure = _begin_copy(_as_bytes(1 - planes.largest, whole=UNSURE)) if with_uncertainty else None
    percent = None if planes.maps is None else _begin_copy(_as_bytes(planes.maps[:, 1:], whole=100))
    argmax = _begin_copy(planes.argmax)
    done = torch.cuda.Event() if argmax is not planes.argmax else None
    if done is not None:
        done.record()
    return _Arriving(argmax, unsure, percent, done)


def _as_bytes(shares: Tensor, *, whole: int) -> Tensor:
    """Round fractions to uint8; 1 becomes `whole`."""
    return (shares.clamp(0, 1) * whole).round().to(torch.uint8)


def _begin_copy(planes: Tensor) -> Tensor:
    """Copy to the CPU without waiting; a tensor on the CPU is not copied."""
    if not planes.is_cuda:
        return planes
    return torch.empty(planes.shape, dtype=planes.dtype, pin_memory=True).copy_(planes, non_blocking=True)


class _PackedPlanes:
    """Planes of labels, compressed one after the other into one block of memory.

    Many small blocks between the network's large, short-lived ones would fragment the memory.
    """

    def __init__(self, values: np.ndarray, targets: _Targets) -> None:
        """Begin without a plane.

        Args:
            values: The dataset's value of each map.
            targets: The arrays that are filled besides the labels.
        """
        self._values, self._targets = values, targets
        self._block = bytearray()
        self._ends: list[int] = []

    def add(self, planes: _Arriving, number: int) -> None:
        """Wait for planes, fill the other arrays, and compress the labels; `number` is that of the first plane."""
        if planes.done is not None:
            planes.done.synchronize()
        targets = self._targets.part(number, number + len(planes.argmax))
        if targets.unsure is not None and planes.unsure is not None:
            targets.unsure[...] = planes.unsure.numpy()
        if targets.percent is not None and planes.percent is not None:
            for organ, target in enumerate(targets.percent):
                target[...] = planes.percent[:, organ].numpy()
        for plane in planes.argmax.numpy():
            self._block += zlib.compress(self._values[plane].tobytes(), PACKING_LEVEL)
            self._ends.append(len(self._block))

    def lay_out(self, transform: CaseTransform) -> np.ndarray:
        """Decompress the planes onto the file grid, from the last to the first, and free each."""
        result = np.zeros(transform.original.shape_zyx, self._values.dtype)
        target = transform.view(result)  # writing here writes into `result`
        while self._ends:
            self._ends.pop()
            start = self._ends[-1] if self._ends else 0
            plane = np.frombuffer(zlib.decompress(self._block[start:]), self._values.dtype)
            target[len(self._ends)] = plane.reshape(target.shape[1:])
            del self._block[start:]
        return result
