"""Measures one case: intensities, grid, organs, similarity of neighboring slices.

Owns: `CaseStatistics` and its parts, and the functions that measure arrays.
Does not own: reading and checking files (`measure_case.py`), decisions (`rules/`).

Arrays are canonical zyx where an axis matters. Facts that depend on the slice axis are measured for all three axes,
since the slice axis is chosen only once all cases are known.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

MAX_VOXELS_FOR_PERCENTILES = 2**20  # more are thinned out evenly: percentiles then move by less than their own noise
MAX_SAMPLE_PER_CASE = 10_000  # foreground voxels that a case gives to the dataset's percentiles, as nnU-Net
MAX_SLICE_PAIRS = 16  # an axis; enough for a mean correlation
MAX_PAIR_SIDE = 128  # slices are thinned out to at most this side for the correlation

Triple = tuple[float, float, float]
Size = tuple[int, int, int]


class Facts(BaseModel):
    """The base class of all measurements: frozen, strict, finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class IntensityStatistics(Facts):
    """Statistics of a set of voxels, in the units of the scan."""

    num_voxels: int
    minimum: float
    maximum: float
    mean: float
    std: float
    percentile_00_5: float
    median: float
    percentile_99_5: float


class ChannelStatistics(Facts):
    """The intensities of one channel of one case; `foreground` is None without annotated organs."""

    whole: IntensityStatistics
    foreground: IntensityStatistics | None


class OrganStatistics(Facts):
    """One organ in one case, in which it has at least one voxel.

    Attributes:
        name: The name of the organ in the dataset.
        num_voxels: The number of voxels.
        volume_ml: The volume.
        num_components: The number of connected components (voxels with a common corner are connected).
        slices_zyx: The number of slices with the organ along z, y and x.
        slice_fraction_zyx: The same as a fraction of the slices of the cropped case.
        width_zyx_mm: The in-plane width for slices along z, y and x: the diameter of a circle with the area of the
            organ's mean slice.
    """

    name: str
    num_voxels: int
    volume_ml: float
    num_components: int
    slices_zyx: Size
    slice_fraction_zyx: Triple
    width_zyx_mm: Triple


class CaseStatistics(Facts):
    """All measurements of one case; axes are canonical.

    Attributes:
        case_id: The name of the case.
        patient_id: The patient; cases of one patient stay in one fold.
        spacing_zyx_mm: The spacing of the voxels.
        size_zyx: The size of the whole scan.
        cropped_size_zyx: The size of the smallest box with all voxels that are not zero in some channel.
        removed_fraction: The fraction of the voxels outside of that box.
        slice_correlation_zyx: The mean correlation of neighboring slices along z, y and x; 0 for a single slice.
        channels: The intensities of each channel.
        organs: The organs that are present.
        dataset: The name of its dataset, if several are planned together.
        voxel_digest: A digest that is equal for scans with the same voxels, whatever the order of their axes; "" for a
            constant scan.
    """

    case_id: str
    patient_id: str
    spacing_zyx_mm: Triple
    size_zyx: Size
    cropped_size_zyx: Size
    removed_fraction: float
    slice_correlation_zyx: Triple
    channels: tuple[ChannelStatistics, ...]
    organs: tuple[OrganStatistics, ...]
    voxel_digest: str
    dataset: str | None = None


def measure_intensities(voxels: np.ndarray) -> IntensityStatistics:
    """Measure one or more finite voxels; percentiles of many voxels are computed from an evenly spaced selection."""
    voxels = voxels.reshape(-1)
    few = thin_out(voxels, at_most=MAX_VOXELS_FOR_PERCENTILES)
    low, median, high = np.percentile(few, [0.5, 50.0, 99.5])
    return IntensityStatistics(
        num_voxels=voxels.size,
        minimum=float(voxels.min()),
        maximum=float(voxels.max()),
        mean=float(voxels.mean(dtype=np.float64)),
        std=float(voxels.std(dtype=np.float64)),
        percentile_00_5=float(low),
        median=float(median),
        percentile_99_5=float(high),
    )


def thin_out(voxels: np.ndarray, *, at_most: int) -> np.ndarray:
    """Return every n-th element of a flat array, so that at most `at_most` remain."""
    return voxels[:: max(1, -(-voxels.size // at_most))]


def sample_voxels(voxels: np.ndarray, *, case_id: str) -> np.ndarray:
    """Draw up to `MAX_SAMPLE_PER_CASE` columns of a (C, N) array, with the name of the case as seed."""
    if voxels.shape[1] <= MAX_SAMPLE_PER_CASE:
        return voxels
    seed = int.from_bytes(hashlib.blake2b(case_id.encode(errors="surrogateescape"), digest_size=8).digest(), "little")
    chosen = np.random.default_rng(seed).integers(0, voxels.shape[1], MAX_SAMPLE_PER_CASE)
    return voxels[:, np.sort(chosen)]


def measure_slice_correlation(image_zyx: np.ndarray, *, axis: int) -> float:
    """Return the mean Pearson correlation of neighboring slices along an axis.

    A selection of the pairs and of the pixels is measured. Pairs with a constant slice do not count; 0 if none is left.
    """
    slices = np.moveaxis(image_zyx, axis, 0)
    if slices.shape[0] < 2:
        return 0.0
    num_pairs = min(MAX_SLICE_PAIRS, slices.shape[0] - 1)
    first = np.unique(np.linspace(0, slices.shape[0] - 2, num_pairs).round().astype(int))
    row_step, column_step = (max(1, -(-side // MAX_PAIR_SIDE)) for side in slices.shape[1:])
    thin = slices[:, ::row_step, ::column_step]
    one, other = (_centered(thin[index].reshape(len(index), -1)) for index in (first, first + 1))
    size = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    counts = size > 0
    if not counts.any():
        return 0.0
    return float(((one * other).sum(axis=1)[counts] / size[counts]).mean())


def _centered(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows - rows.mean(axis=1, keepdims=True)


def measure_organs(
    labels_zyx: np.ndarray, *, names: dict[int, str], spacing_zyx_mm: Triple, cropped_size_zyx: Size
) -> tuple[OrganStatistics, ...]:
    """Measure every organ of a label map.

    Args:
        labels_zyx: Label values, none of them negative.
        names: The name of each organ by value; other values are skipped.
        spacing_zyx_mm: The spacing of the voxels.
        cropped_size_zyx: The size of the cropped case, for the fraction of slices.

    Returns:
        The organs that are present, in the order of their values.
    """
    import scipy.ndimage  # slow to import; only cases with labels need it

    facts = []
    boxes = scipy.ndimage.find_objects(labels_zyx)
    for value in sorted(names):
        if value > len(boxes) or boxes[value - 1] is None:
            continue
        mask = labels_zyx[boxes[value - 1]] == value
        _, num_components = scipy.ndimage.label(mask, structure=np.ones((3, 3, 3)))
        facts.append(
            _measure_organ(
                mask,
                name=names[value],
                num_components=int(num_components),
                spacing_zyx_mm=spacing_zyx_mm,
                cropped_size_zyx=cropped_size_zyx,
            )
        )
    return tuple(facts)


def _measure_organ(
    mask_zyx: np.ndarray, *, name: str, num_components: int, spacing_zyx_mm: Triple, cropped_size_zyx: Size
) -> OrganStatistics:
    num_voxels = int(np.count_nonzero(mask_zyx))
    voxel_mm3 = float(np.prod(spacing_zyx_mm))
    from_front = np.any(mask_zyx, axis=0)
    slices = (
        int(np.count_nonzero(np.any(mask_zyx, axis=(1, 2)))),
        int(np.count_nonzero(np.any(from_front, axis=1))),
        int(np.count_nonzero(np.any(from_front, axis=0))),
    )
    areas = [num_voxels * voxel_mm3 / (n * spacing) for n, spacing in zip(slices, spacing_zyx_mm, strict=True)]
    return OrganStatistics(
        name=name,
        num_voxels=num_voxels,
        volume_ml=num_voxels * voxel_mm3 / 1000.0,
        num_components=num_components,
        slices_zyx=slices,
        slice_fraction_zyx=_triple([min(1.0, n / size) for n, size in zip(slices, cropped_size_zyx, strict=True)]),
        width_zyx_mm=_triple([float(np.sqrt(4.0 * area / np.pi)) for area in areas]),
    )


def digest_voxels(channels: Sequence[np.ndarray]) -> str:
    """Return a digest that is equal for scans with the same voxels, whatever the data type; "" if all are constant."""
    digest = hashlib.blake2b(digest_size=12)
    is_constant = True
    for channel in channels:
        few = thin_out(channel.reshape(-1), at_most=MAX_VOXELS_FOR_PERCENTILES).astype(np.float32)
        is_constant = is_constant and bool((few == few[:1]).all())
        digest.update(repr(channel.shape).encode())
        digest.update(few.tobytes())
    return "" if is_constant else digest.hexdigest()


def _triple(values: Sequence[float]) -> Triple:
    first, second, third = values
    return first, second, third
