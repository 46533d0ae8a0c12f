"""One scan to what the network sees, and the network's maps back to the scan's own grid.

Owns: `preprocess_case` (a whole case for the store, with its labels as organ indices) and the way back beside it.
Does not own: the steps for the image (`slices.py`), the grid (`transform.py`), how voxels are interpolated
(`resampling.py`), nor files.

Symbols: C channels, K organs, S slices, R rows, W columns of the preprocessed grid.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import DatasetError, GeometryError
from autoseg.image_io import Scan
from autoseg.plans import DataPlan
from autoseg.preprocessing.resampling import Taps, apply_taps, linear_taps, resample_labels
from autoseg.preprocessing.slices import prepare_slices
from autoseg.preprocessing.transform import CaseTransform

PACKING_LEVEL = 1  # of label planes: to a tenth of their size or less, in about a millisecond for 512 x 512
UNSURE = 255  # stands for no probability at all


@dataclass(frozen=True)
class PreprocessedCase:
    """One case as the network sees it.

    Attributes:
        image: (C, S, R, W) float32, near zero mean.
        labels: (S, R, W) organ indices, uint8 (ignored: 255) up to 254 organs, else uint16 (65535); None if unknown.
        transform: The way back to the file grid.
    """

    image: np.ndarray
    labels: np.ndarray | None
    transform: CaseTransform


def preprocess_case(channels: Sequence[Scan], *, plan: DataPlan, labels: Scan | None = None) -> PreprocessedCase:
    """Bring the channels of one scan, and its label map if there is one, to the plan's grid.

    Raises:
        DatasetError: The number of channels is not the plan's, the grids differ in shape, or a label value is unknown.
        PlanError: The target spacing would make the grid impossibly large.
    """
    _check_shapes(channels, labels)
    slices = prepare_slices(channels, plan=plan)
    image = slices[:, : slices.shape[1]]
    if labels is None:
        return PreprocessedCase(image, None, slices.transform)
    indices = to_organ_indices(slices.transform.view(labels.array_zyx), plan=plan)
    resampled = resample_labels(indices, slices.transform.resampled_shape)
    return PreprocessedCase(image, np.ascontiguousarray(resampled), slices.transform)


def undo_preprocessing(
    slices: Iterable[np.ndarray],
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
    along, rows, columns = map(linear_taps, transform.resampled_shape, transform.cropped_shape)
    before: np.ndarray | None = None
    planes: list[bytes] = []
    for number, now in enumerate(_checked(slices, transform=transform, num_maps=len(values))):
        while (done := len(planes)) < transform.cropped_shape[0] and along.indices[1, done] == number:
            first = now if before is None or along.indices[0, done] == number else before
            mixed = _mix(first, now, share=along.weights[1, done])  # (1 + K, R, W)
            winners, largest = _winners(mixed, rows=rows, columns=columns)
            planes.append(zlib.compress(values[winners].tobytes(), PACKING_LEVEL))
            if unsure is not None:
                unsure[done] = np.rint(np.clip(1 - largest, 0, 1) * UNSURE)
        before = now
    return _unpack_planes(planes, values.dtype, transform=transform)


def _unpack_planes(planes: Sequence[bytes], dtype: np.dtype, *, transform: CaseTransform) -> np.ndarray:
    """Lay packed planes of labels, slice by slice, onto the file grid."""
    result = np.zeros(transform.original.shape_zyx, dtype)
    target = transform.view(result)  # writing here writes into `result`
    for number, plane in enumerate(planes):
        target[number] = np.frombuffer(zlib.decompress(plane), dtype).reshape(target.shape[1:])
    return result


def to_organ_indices(labels: np.ndarray, *, plan: DataPlan) -> np.ndarray:
    """Turn the dataset's values into organ indices: 0, 1..K in the order of `plan.organs`, or the ignored index.

    Raises:
        DatasetError: A value is neither 0, nor an organ's, nor the ignored one.
    """
    organs = plan.organs
    known = [0, *(organ.value for organ in organs)]
    dtype = index_dtype(len(organs))
    indices = np.arange(len(known), dtype=dtype)
    if plan.ignore_value is not None:
        known.append(plan.ignore_value)
        indices = np.append(indices, np.iinfo(dtype).max)
    table = np.zeros(max(known) + 2, dtype)  # the last entry stands for every larger value
    is_known = np.zeros(table.size, bool)
    table[known], is_known[known] = indices, True
    if labels.size and labels.min() < 0:
        raise _unknown_values(labels[labels < 0], known=known)
    positions = labels if np.iinfo(labels.dtype).max < table.size else np.minimum(labels, table.size - 1)
    found = is_known[positions]
    if not found.all():
        raise _unknown_values(labels[~found], known=known)
    return table[positions]


def index_dtype(num_organs: int) -> type[np.uint8] | type[np.uint16]:
    """Return the type of organ indices; its largest value is the ignored index."""
    return np.uint8 if num_organs <= 254 else np.uint16


def _checked(slices: Iterable[np.ndarray], *, transform: CaseTransform, num_maps: int) -> Iterator[np.ndarray]:
    """Pass the maps on, and refuse a wrong shape or number of them."""
    num_slices, rows, columns = transform.resampled_shape
    expected, count = (num_maps, rows, columns), 0
    for maps in slices:
        if maps.shape != expected or count == num_slices:
            raise GeometryError(
                f"slice {count} of the prediction has the shape {maps.shape}; expected {num_slices} slices {expected}."
            )
        count += 1
        yield maps
    if count != num_slices:
        raise GeometryError(f"the prediction ended after {count} of {num_slices} slices.")


def _mix(first: np.ndarray, second: np.ndarray, *, share: np.float32) -> np.ndarray:
    """Interpolate between two slices, float32; `share` is the part of the second one."""
    mixed = first.astype(np.float32, copy=False)
    return mixed if share == 0 else mixed * (1 - share) + second.astype(np.float32, copy=False) * share


def _winners(maps: np.ndarray, *, rows: Taps, columns: Taps) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate the maps (1 + K, R, W) in-plane, one at a time; return which is the largest at each pixel, and it.

    An organ that is nowhere above the background stays so under interpolation and is passed over: most of many.
    """
    above = np.flatnonzero((maps[1:] > maps[0]).any(axis=(1, 2))) + 1
    largest = _in_plane(maps[0], rows=rows, columns=columns).copy()
    winners = np.zeros(largest.shape, np.intp)
    for index in above:
        one = _in_plane(maps[index], rows=rows, columns=columns)
        wins = one > largest
        np.copyto(largest, one, where=wins)
        winners[wins] = index
    return winners, largest


def _in_plane(plane: np.ndarray, *, rows: Taps, columns: Taps) -> np.ndarray:
    for axis, taps in enumerate((rows, columns)):
        if taps.indices.shape[1] != plane.shape[axis]:  # else the same grid
            plane = apply_taps(plane, taps, axis=axis)
    return plane


def _check_shapes(channels: Sequence[Scan], labels: Scan | None) -> None:
    shape = channels[0].array_zyx.shape
    if labels is not None and labels.array_zyx.shape != shape:
        raise DatasetError(
            f"channels and labels of one case differ in shape_zyx: {shape} and {labels.array_zyx.shape}. "
            "Resample one of them."
        )


def _unknown_values(unknown: np.ndarray, *, known: Sequence[int]) -> DatasetError:
    values, counts = np.unique(unknown, return_counts=True)
    listed = ", ".join(f"{value} ({count} voxels)" for value, count in zip(values[:8], counts[:8], strict=True))
    return DatasetError(f"the label map holds {listed}; known are {sorted(known)[:20]}. Name them in dataset.json.")
