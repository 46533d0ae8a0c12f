"""The fingerprint: what was measured of every case of a dataset, and what is wrong with its contents.

Owns: `Fingerprint`, `scan_case`, `make_fingerprint`.
Does not own: the single measurements (`case_facts.py`) and checks (`content_checks.py`), decisions (`rules_*.py`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from autoseg.dataset import CaseFiles, Dataset, read_channels
from autoseg.errors import AutosegError, DatasetError, Problem
from autoseg.geometry import box_slices, canonical_axis_map, nonzero_box, reorient
from autoseg.image_io import Scan, read_labels
from autoseg.planning.case_facts import (
    CaseFacts,
    ChannelFacts,
    Facts,
    IntensityFacts,
    digest_voxels,
    measure_intensities,
    measure_organs,
    measure_slice_correlation,
    sample_voxels,
)
from autoseg.planning.content_checks import (
    check_duplicates,
    check_grids,
    check_intensities,
    check_label_values,
    check_organs_present,
    count_values,
)
from autoseg.plans import Axis
from autoseg.workers import WorkerFailure, map_cases

AXIS_NUMBER: Mapping[Axis, int] = {"z": 0, "y": 1, "x": 2}


class OrganEntry(Facts):
    """An organ as the dataset declares it."""

    name: str
    value: int
    description: str | None


class Fingerprint(Facts):
    """All that the planner knows of a dataset.

    Attributes:
        version: Of this form.
        dataset_name: From the dataset.
        channel_names: In the order of the channels.
        organs: In the order of the dataset.
        ignore_value: Label value that counts nowhere.
        foreground: For each channel the intensities of the organs' voxels; every case gives at most the same number.
        cases: Facts of every usable case.
    """

    version: Literal[1] = 1
    dataset_name: str
    channel_names: tuple[str, ...]
    organs: tuple[OrganEntry, ...]
    ignore_value: int | None
    foreground: tuple[IntensityFacts | None, ...]
    cases: tuple[CaseFacts, ...]

    @property
    def spacings_zyx_mm(self) -> np.ndarray:
        """Spacing of each case, (N, 3)."""
        return np.array([case.spacing_zyx_mm for case in self.cases])

    @property
    def cropped_sizes_zyx(self) -> np.ndarray:
        """Size of each cropped case in voxels, (N, 3)."""
        return np.array([case.cropped_size_zyx for case in self.cases])

    def organ_widths_mm(self, axis: Axis) -> dict[str, float]:
        """Return the median in-plane width of each organ, cutting along an axis; absent organs are left out."""
        number = AXIS_NUMBER[axis]
        return self._medians(lambda case: ((organ.name, organ.width_zyx_mm[number]) for organ in case.organs))

    def organ_extents_mm(self, axis: Axis) -> dict[str, float]:
        """Return the median extent of each organ along an axis, counting the slices that hold it."""
        number = AXIS_NUMBER[axis]
        return self._medians(
            lambda case: ((organ.name, organ.slices_zyx[number] * case.spacing_zyx_mm[number]) for organ in case.organs)
        )

    def organ_pieces(self) -> dict[str, list[int]]:
        """Return for each organ the number of its connected pieces in every case that holds it."""
        found: dict[str, list[int]] = {organ.name: [] for organ in self.organs}
        for case in self.cases:
            for organ in case.organs:
                found[organ.name].append(organ.num_components)
        return found

    def patient_groups(self) -> dict[str, str]:
        """Return for each case the name of its group: cases of one patient, or with the same voxels, share one."""
        group_of = {case.case_id: case.patient_id for case in self.cases}
        first_of: dict[str, str] = {}
        for case in self.cases:
            first = first_of.setdefault(case.voxel_digest or case.case_id, case.case_id)
            kept, joined = group_of[first], group_of[case.case_id]
            if kept != joined:
                group_of = {case_id: kept if group == joined else group for case_id, group in group_of.items()}
        return group_of

    def _medians(self, values_of: Callable[[CaseFacts], Iterable[tuple[str, float]]]) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for case in self.cases:
            for name, value in values_of(case):
                values.setdefault(name, []).append(value)
        return {organ.name: float(np.median(values[organ.name])) for organ in self.organs if organ.name in values}


@dataclass(frozen=True)
class CaseScanResult:
    """What reading one case gave.

    Attributes:
        case_id: The case.
        facts: None where the case cannot be used.
        problems: Errors (then there are no facts) and warnings.
        sample: (C, N) float32, foreground voxels for the percentiles of the dataset.
    """

    case_id: str
    facts: CaseFacts | None
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
        case: The case; its label must be there.
        dataset: Declares channels and labels; its list of cases is not used.
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


def _measure_case(opened: _OpenCase, *, dataset: Dataset) -> tuple[CaseFacts, np.ndarray | None]:
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
    facts = CaseFacts(
        case_id=opened.files.case_id,
        patient_id=opened.files.patient_id,
        spacing_zyx_mm=canonical.spacing_zyx_mm,
        size_zyx=canonical.shape_zyx,
        cropped_size_zyx=cropped_size,
        removed_share=1.0 - float(np.prod(cropped_size) / np.prod(canonical.shape_zyx)),
        slice_correlation_zyx=(correlation_z, correlation_y, correlation_x),
        channels=tuple(
            ChannelFacts(
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
        voxel_digest=digest_voxels(arrays),
    )
    return facts, None if foreground is None else sample_voxels(foreground, case_id=opened.files.case_id)


def _pick_foreground(arrays: list[np.ndarray], *, labels: np.ndarray, ignore_value: int | None) -> np.ndarray | None:
    """Return the organs' voxels, (C, N) float32; None where there is none."""
    mask = labels > 0
    if ignore_value is not None:
        mask &= labels != ignore_value
    return np.stack([array[mask] for array in arrays]).astype(np.float32) if mask.any() else None


def make_fingerprint(dataset: Dataset, *, num_workers: int) -> tuple[Fingerprint, tuple[Problem, ...]]:
    """Scan all cases in parallel.

    Returns:
        The fingerprint of the usable cases, and every problem of every case in the order of the cases. What reading
        the dataset's layout found (`dataset.problems`) is not repeated.

    Raises:
        DatasetError: No case is usable; carries all problems.
    """
    results = _scan_all(dataset, num_workers=num_workers)
    problems = [problem for result in results for problem in result.problems]
    cases = tuple(result.facts for result in results if result.facts is not None)
    if not cases:
        headline = f"none of {len(results)} cases of {dataset.name} can be used. Mend what is listed below."
        raise DatasetError(headline, problems=[*dataset.problems, *problems])
    problems += check_duplicates(cases)
    problems += check_organs_present(cases, labels=dataset.labels)
    samples = [result.sample for result in results if result.sample is not None]
    fingerprint = Fingerprint(
        dataset_name=dataset.name,
        channel_names=dataset.channel_names,
        organs=tuple(
            OrganEntry(name=organ.name, value=organ.value, description=organ.description)
            for organ in dataset.labels.organs
        ),
        ignore_value=dataset.labels.ignore_value,
        foreground=_measure_foreground(samples, num_channels=len(dataset.channel_names)),
        cases=cases,
    )
    return fingerprint, tuple(problems)


def _scan_all(dataset: Dataset, *, num_workers: int) -> list[CaseScanResult]:
    results = []
    for case, result in map_cases(
        partial(scan_case, dataset=dataset), dataset.cases, num_workers=num_workers, what="reading scans"
    ):
        if isinstance(result, WorkerFailure):
            result = CaseScanResult(case.case_id, None, (Problem(case.case_id, result.message),))
        results.append(result)
    return results


def _measure_foreground(samples: list[np.ndarray], *, num_channels: int) -> tuple[IntensityFacts | None, ...]:
    if not samples:
        return (None,) * num_channels
    pooled = np.concatenate(samples, axis=1)  # (C, N)
    return tuple(measure_intensities(channel) for channel in pooled)
