"""The network's maps back to the scan's own grid, as a label map: the inverse of `preprocessing/case.py`.

Owns: `undo_preprocessing`. It works where the maps are, on a GPU too, and brings only planes of labels to the host.
Does not own: the grid (`preprocessing/transform.py`).

Symbols: K organs, S slices, R rows, W columns of the preprocessed grid.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.errors import GeometryError
from autoseg.preprocessing.resampling import linear_taps
from autoseg.preprocessing.transform import CaseTransform

PACKING_LEVEL = 1  # of label planes: to a tenth of their size or less, in about a millisecond for 512 x 512
UNSURE = 255  # stands for no probability at all


def undo_preprocessing(
    slices: Iterable[Tensor],
    *,
    transform: CaseTransform,
    organ_values: Sequence[int],
    uncertainty_zyx: np.ndarray | None = None,
) -> np.ndarray:
    """Bring the network's maps to the grid of the file, as a label map with the dataset's values.

    The maps are interpolated linearly and the largest wins, one slice of the file at a time: three preprocessed slices
    of all organs are the most that is held, never (organs x full grid). Labels are packed until the last map has come,
    so that the full label map does not stand beside the network at work.

    Args:
        slices: One (1 + K, R, W) map per preprocessed slice, in order, background first; logits or probs, any float.
        transform: What `preprocess_case` did.
        organ_values: The K values of the organs in the dataset.
        uncertainty_zyx: uint8 on the file grid, to be filled: 0 where the winner has the whole probability, up to 255
            where it has none. Needs maps of probabilities.

    Returns:
        uint8, or uint16 for values over 255, on the file grid; background outside the crop box. A tie is won by the
        background, then by the organ that stands first.

    Raises:
        GeometryError: The number or the shape of the maps is not that of the preprocessed grid.
    """
    values = np.array([0, *organ_values], np.uint8 if max(organ_values, default=0) <= 255 else np.uint16)
    unsure = None if uncertainty_zyx is None else transform.view(uncertainty_zyx)
    packed: list[Future[bytes]] = []
    with ThreadPoolExecutor(1, "packing") as packing:  # and waits for a GPU, while the next maps are asked for
        for number, plane in enumerate(_planes(slices, transform=transform, num_maps=len(values))):
            target = None if unsure is None else unsure[number]
            packed.append(packing.submit(_pack, plane.bring(with_uncertainty=target is not None), values, target))
    return _unpack([plane.result() for plane in packed], values.dtype, transform=transform)


@dataclass(frozen=True)
class _Plane:
    """One slice of the file, cropped.

    Attributes:
        winners: (rows, columns) uint8 or int32, which of the maps is the largest.
        largest: (rows, columns) its value.
    """

    winners: Tensor
    largest: Tensor

    def bring(self, *, with_uncertainty: bool) -> "_Arriving":
        """Begin to bring to the host what is needed there."""
        unsure = ((1 - self.largest).clamp(0, 1) * UNSURE).round().to(torch.uint8) if with_uncertainty else None
        winners, unsure = _begin_copy(self.winners), None if unsure is None else _begin_copy(unsure)
        done = torch.cuda.Event() if self.winners.is_cuda else None
        if done is not None:
            done.record()
        return _Arriving(winners, unsure, done)


@dataclass(frozen=True)
class _Arriving:
    """What of a plane is on its way to the host.

    Attributes:
        winners: Which of the maps.
        unsure: uint8, or None.
        done: When both are there; None: they are.
    """

    winners: Tensor
    unsure: Tensor | None
    done: torch.cuda.Event | None


def _planes(slices: Iterable[Tensor], *, transform: CaseTransform, num_maps: int) -> Iterator[_Plane]:
    """Give the slices of the file, one after the other, each as soon as the maps around it have come."""
    along = linear_taps(transform.resampled_shape[0], transform.cropped_shape[0])
    num_slices, rows, columns = transform.cropped_shape
    before: Tensor | None = None
    done = 0
    for number, now in enumerate(_checked(slices, transform=transform, num_maps=num_maps)):
        while done < num_slices and along.indices[1, done] == number:
            first = now if before is None or along.indices[0, done] == number else before
            find = _winners_at_once if now.is_cuda else _winners_one_by_one
            yield find(first, now, share=float(along.weights[1, done]), shape=(rows, columns))
            done += 1
        before = now


def _winners_one_by_one(first: Tensor, second: Tensor, *, share: float, shape: tuple[int, int]) -> _Plane:
    """Interpolate between two slices of maps (1 + K, R, W), then in-plane; `share` is the part of the second slice.

    One map after the other, which a CPU's cache holds. One that is nowhere above the background stays so under
    interpolation and is passed over: most of many.
    """
    largest = _interpolate(first[:1], second[:1], share=share, shape=shape)[0]
    dtype = _winner_type(len(first))
    winners = torch.zeros(shape, dtype=dtype)
    for number in range(1, len(first)):
        pair = (first, second) if share > 0 else (first,)
        if any(bool((maps[number] > maps[0]).any()) for maps in pair):
            one = _interpolate(first[number, None], second[number, None], share=share, shape=shape)[0]
            winners = winners.maximum((one > largest) * torch.tensor(number, dtype=dtype))  # a later winner beat all
            largest = largest.maximum(one)
    return _Plane(winners, largest)


def _winners_at_once(first: Tensor, second: Tensor, *, share: float, shape: tuple[int, int]) -> _Plane:
    """Do the same in a few large steps, and without a question to wait for, as a GPU wants it."""
    maps = _interpolate(first, second, share=share, shape=shape)
    largest = maps.amax(dim=0)
    dtype = _winner_type(len(maps))
    from_last = torch.arange(len(maps), 0, -1, dtype=dtype, device=maps.device)  # the first of several largest wins
    place = ((maps == largest) * from_last[:, None, None]).amax(dim=0)  # 0: not even the largest is, it is NaN
    return _Plane(torch.where(place > 0, len(maps) - place, 0).to(dtype), largest)


def _interpolate(first: Tensor, second: Tensor, *, share: float, shape: tuple[int, int]) -> Tensor:
    maps = first.float()
    if share > 0:
        maps = maps.lerp(second.float(), share)
    if maps.shape[1:] == shape:
        return maps
    return F.interpolate(maps[None], size=shape, mode="bilinear", align_corners=False)[0]


def _winner_type(num_maps: int) -> torch.dtype:
    return torch.uint8 if num_maps <= 255 else torch.int32


def _checked(slices: Iterable[Tensor], *, transform: CaseTransform, num_maps: int) -> Iterator[Tensor]:
    """Pass the maps on, and refuse a wrong shape or number of them."""
    num_slices, rows, columns = transform.resampled_shape
    expected, count = (num_maps, rows, columns), 0
    for maps in slices:
        if maps.shape != expected or count == num_slices:
            raise GeometryError(
                f"slice {count} of the prediction has the shape {tuple(maps.shape)}; "
                f"expected {num_slices} slices {expected}."
            )
        count += 1
        yield maps
    if count != num_slices:
        raise GeometryError(f"the prediction ended after {count} of {num_slices} slices.")


def _begin_copy(plane: Tensor) -> Tensor:
    """Copy to the host without waiting; what is there already is not copied."""
    if not plane.is_cuda:
        return plane
    return torch.empty(plane.shape, dtype=plane.dtype, pin_memory=True).copy_(plane, non_blocking=True)


def _pack(plane: _Arriving, values: np.ndarray, uncertainty: np.ndarray | None) -> bytes:
    """Wait for a plane, write down how unsure it is, and pack its labels."""
    if plane.done is not None:
        plane.done.synchronize()
    if uncertainty is not None:
        assert plane.unsure is not None
        uncertainty[...] = plane.unsure.numpy()
    return zlib.compress(values[plane.winners.numpy()].tobytes(), PACKING_LEVEL)


def _unpack(planes: Sequence[bytes], dtype: np.dtype, *, transform: CaseTransform) -> np.ndarray:
    """Lay packed planes of labels, slice by slice, onto the file grid."""
    result = np.zeros(transform.original.shape_zyx, dtype)
    target = transform.view(result)  # writing here writes into `result`
    for number, plane in enumerate(planes):
        target[number] = np.frombuffer(zlib.decompress(plane), dtype).reshape(target.shape[1:])
    return result
