"""Reads one case of a dataset once, checks its contents, and measures it.

Owns: `CaseScanResult`, `scan_case`.
Does not own: the single measurements (`case_statistics.py`) and checks (`content_checks.py`), many cases
(`extract.py`).
"""

from dataclasses import dataclass, field

import numpy as np

from autoseg.datasets.dataset import CaseFiles, Dataset, read_channels
from autoseg.errors import AutosegError, Problem
from autoseg.io.geometry import box_slices, canonical_axis_map, nonzero_box, reorient
from autoseg.io.image import Scan, read_labels
from autoseg.planning.fingerprint.case_statistics import (
    CaseStatistics,
    ChannelStatistics,
    digest_voxels,
    measure_intensities,
    measure_organs,
    measure_slice_correlation,
    sample_voxels,
)
from autoseg.planning.fingerprint.content_checks import check_grids, check_intensities, check_label_values, count_values


@dataclass(frozen=True)
class CaseScanResult:
    """The result of reading one case.

    Attributes:
        case_id: The name of the case.
        facts: The measurements; None if the case cannot be used.
        problems: The errors (then there are no facts) and warnings.
        sample: (C, N) float32, foreground voxels for the percentiles of the dataset.
    """

    case_id: str
    facts: CaseStatistics | None
    problems: tuple[Problem, ...]
    sample: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class _OpenCase:
    """The scans of a case that passed all checks."""

    files: CaseFiles
    channels: tuple[Scan, ...]
    labels: Scan


def scan_case(case: CaseFiles, *, dataset: Dataset) -> CaseScanResult:
    """Read a case once, check its contents and measure it.

    Args:
        case: The case, which must have a label map.
        dataset: The dataset with channels and labels; its list of cases is not used.
    """
    try:
        opened, problems = _open_case(case, dataset=dataset)
        if opened is None:
            return CaseScanResult(case.case_id, None, tuple(problems))
        facts, sample = _measure_case(opened, dataset=dataset)
    except AutosegError as error:
        return CaseScanResult(case.case_id, None, (Problem(case.case_id, str(error)),))
    for name, channel in zip(dataset.channel_names, facts.channels, strict=True):
        problems += check_intensities(case.case_id, channel_name=name, facts=channel.whole)
    return CaseScanResult(case.case_id, facts, tuple(problems), sample)


def _open_case(case: CaseFiles, *, dataset: Dataset) -> tuple[_OpenCase | None, list[Problem]]:
    if case.label_path is None:
        return None, [
            Problem(case.case_id, "has no label file, so it cannot be trained on. Add one or remove the images.")
        ]
    channels = read_channels(case)
    labels = read_labels(case.label_path)
    problems = [
        Problem(case.case_id, warning, is_error=False) for scan in (*channels, labels) for warning in scan.warnings
    ]
    others = {
        f"channel {name}": scan.geometry for name, scan in zip(dataset.channel_names[1:], channels[1:], strict=True)
    }
    problems += check_grids(case.case_id, image=channels[0].geometry, others={**others, "label": labels.geometry})
    problems += check_label_values(case.case_id, counts=count_values(labels.array_zyx), labels=dataset.labels)
    if any(problem.is_error for problem in problems):
        return None, problems
    return _OpenCase(case, channels, labels), problems


def _measure_case(opened: _OpenCase, *, dataset: Dataset) -> tuple[CaseStatistics, np.ndarray | None]:
    arrays = [scan.array_zyx for scan in opened.channels]
    axis_map = canonical_axis_map(opened.channels[0].geometry)
    canonical = reorient(opened.channels[0].geometry, axis_map)
    box = nonzero_box(axis_map.apply(np.logical_or.reduce([array != 0 for array in arrays])))
    cropped_z, cropped_y, cropped_x = (stop - start for start, stop in box)
    cropped_size = (cropped_z, cropped_y, cropped_x)
    cropped = [axis_map.apply(array)[box_slices(box)] for array in arrays]
    labels = opened.labels.array_zyx
    foreground = _pick_foreground(arrays, labels=labels, ignore_value=dataset.labels.ignore_value)
    correlation_z, correlation_y, correlation_x = (
        float(np.mean([measure_slice_correlation(array, axis=axis) for array in cropped])) for axis in range(3)
    )
    facts = CaseStatistics(
        case_id=opened.files.case_id,
        patient_id=opened.files.patient_id,
        spacing_zyx_mm=canonical.spacing_zyx_mm,
        size_zyx=canonical.shape_zyx,
        cropped_size_zyx=cropped_size,
        removed_fraction=1.0 - float(np.prod(cropped_size) / np.prod(canonical.shape_zyx)),
        slice_correlation_zyx=(correlation_z, correlation_y, correlation_x),
        channels=tuple(
            ChannelStatistics(
                whole=measure_intensities(array),
                foreground=None if foreground is None else measure_intensities(foreground[number]),
            )
            for number, array in enumerate(arrays)
        ),
        organs=measure_organs(
            axis_map.apply(labels),
            names={organ.value: organ.name for organ in dataset.labels.organs},
            spacing_zyx_mm=canonical.spacing_zyx_mm,
            cropped_size_zyx=cropped_size,
        ),
        voxel_digest=digest_voxels([axis_map.apply(array) for array in arrays]),
    )
    return facts, None if foreground is None else sample_voxels(foreground, case_id=opened.files.case_id)


def _pick_foreground(arrays: list[np.ndarray], *, labels: np.ndarray, ignore_value: int | None) -> np.ndarray | None:
    """Return the organs' voxels, (C, N) float32; None if there are none."""
    mask = labels > 0
    if ignore_value is not None:
        mask &= labels != ignore_value
    return np.stack([array[mask] for array in arrays]).astype(np.float32) if mask.any() else None
