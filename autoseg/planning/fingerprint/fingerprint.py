"""Makes the fingerprint of a dataset: the measurements of every case, and the problems of their contents.

Owns: `Fingerprint`, `make_fingerprint`.
Does not own: how a case is read and measured (`measure_case.py`), the cache of earlier runs (`case_cache.py`),
decisions (`rules/`).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np

from autoseg.config.plans import Axis
from autoseg.datasets.dataset import Dataset, LabelSet
from autoseg.errors import DatasetError, Problem
from autoseg.planning.fingerprint.case_cache import CaseCache
from autoseg.planning.fingerprint.case_statistics import CaseStatistics, Facts, IntensityStatistics, measure_intensities
from autoseg.planning.fingerprint.content_checks import check_annotations, check_duplicates, check_organs_present
from autoseg.planning.fingerprint.extract import scan_cases

AXIS_NUMBER: Mapping[Axis, int] = {"z": 0, "y": 1, "x": 2}


class OrganEntry(Facts):
    """An organ as the dataset declares it; `part_of` are the regions that define it if it has no name of its own."""

    name: str
    value: int
    description: str | None
    part_of: tuple[str, ...] = ()


class RegionEntry(Facts):
    """A named union of organs."""

    name: str
    organs: tuple[str, ...]


class LabelEntry(Facts):
    """A label of one of several datasets: `maps_to` is an organ, a region, or None for the background."""

    value: int
    name: str
    maps_to: str | None


class DatasetEntry(Facts):
    """One of several datasets that are planned together.

    Attributes:
        name: The name, with which the ids of its cases begin.
        channel_names: The names of the channels, in order.
        labels: The meaning of its label values.
        ignore_value: The value of voxels that are ignored, or None.
        foreground: As for `Fingerprint`, from its own cases.
    """

    name: str
    channel_names: tuple[str, ...]
    labels: tuple[LabelEntry, ...]
    ignore_value: int | None
    foreground: tuple[IntensityStatistics | None, ...]


class Fingerprint(Facts):
    """Everything that the planner knows about a dataset.

    Attributes:
        version: The version of the format.
        dataset_name: The name of the dataset.
        channel_names: The names of the channels, in order.
        organs: The organs, in the order of the dataset.
        ignore_value: The value of voxels that are ignored, or None.
        foreground: The intensities of the organs' voxels per channel; each case contributes at most the same number.
        cases: The measurements of every usable case.
        regions: Named unions of organs.
        datasets: The datasets, if several are planned together; channels and foreground are those of the first.
    """

    version: Literal[1] = 1
    dataset_name: str
    channel_names: tuple[str, ...]
    organs: tuple[OrganEntry, ...]
    ignore_value: int | None
    foreground: tuple[IntensityStatistics | None, ...]
    cases: tuple[CaseStatistics, ...]
    regions: tuple[RegionEntry, ...] = ()
    datasets: tuple[DatasetEntry, ...] = ()

    @property
    def spacings_zyx_mm(self) -> np.ndarray:
        """Return the spacing of each case, (N, 3)."""
        return np.array([case.spacing_zyx_mm for case in self.cases])

    @property
    def cropped_sizes_zyx(self) -> np.ndarray:
        """Return the size of each cropped case in voxels, (N, 3)."""
        return np.array([case.cropped_size_zyx for case in self.cases])

    def organ_widths_mm(self, axis: Axis) -> dict[str, float]:
        """Return the median in-plane width of each organ for slices along an axis; absent organs are left out.

        Organs that are only part of regions are replaced by these regions.
        """
        number = AXIS_NUMBER[axis]
        return self._medians(lambda case: ((organ.name, organ.width_zyx_mm[number]) for organ in case.organs))

    def organ_extents_mm(self, axis: Axis) -> dict[str, float]:
        """Return the median extent of each organ along an axis, from the number of slices that contain it."""
        number = AXIS_NUMBER[axis]
        return self._medians(
            lambda case: ((organ.name, organ.slices_zyx[number] * case.spacing_zyx_mm[number]) for organ in case.organs)
        )

    def organ_components(self) -> dict[str, list[int]]:
        """Return the number of connected components of each organ in every case that contains it."""
        found: dict[str, list[int]] = {organ.name: [] for organ in self.organs}
        for case in self.cases:
            for organ in case.organs:
                if organ.name in found:  # not a region
                    found[organ.name].append(organ.num_components)
        return found

    def patient_groups(self) -> dict[str, str]:
        """Return the group of each case: cases of one patient, or with the same voxels, are in one group."""
        group_of = {case.case_id: case.patient_id for case in self.cases}
        first_of: dict[str, str] = {}
        for case in self.cases:
            first = first_of.setdefault(case.voxel_digest or case.case_id, case.case_id)
            kept, joined = group_of[first], group_of[case.case_id]
            if kept != joined:
                group_of = {case_id: kept if group == joined else group for case_id, group in group_of.items()}
        return group_of

    def _medians(self, values_of: Callable[[CaseStatistics], Iterable[tuple[str, float]]]) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for case in self.cases:
            for name, value in values_of(case):
                values.setdefault(name, []).append(value)
        names = [organ.name for organ in self.organs if organ.name in values]
        return {name: float(np.median(values[name])) for name in names or values}


def make_fingerprint(
    dataset: Dataset, *, num_workers: int, cache: CaseCache | None = None
) -> tuple[Fingerprint, tuple[Problem, ...]]:
    """Scan all cases in parallel.

    Args:
        dataset: The dataset.
        num_workers: The number of processes.
        cache: The measurements of earlier runs; cases whose files did not change are not read again. None reads all.

    Returns:
        The fingerprint of the usable cases, and every problem of every case in the order of the cases. Problems of the
        layout (`dataset.problems`) are not repeated.

    Raises:
        DatasetError: No case is usable; lists all problems.
    """
    results = scan_cases(dataset, num_workers=num_workers, cache=cache or CaseCache(None))
    problems = [problem for result in results for problem in result.problems]
    cases = tuple(result.facts for result in results if result.facts is not None)
    if not cases:
        headline = f"none of {len(results)} cases of {dataset.name} can be used. Correct the problems listed below."
        raise DatasetError(headline, problems=[*dataset.problems, *problems])
    problems += check_duplicates(cases)
    annotated = {case.case_id: case.annotated for case in dataset.cases if case.annotated is not None}
    problems += check_annotations(cases, annotated=annotated)
    problems += check_organs_present(cases, labels=dataset.labels)
    samples = [result.sample for result in results if result.sample is not None]
    fingerprint = Fingerprint(
        dataset_name=dataset.name,
        channel_names=dataset.channel_names,
        organs=tuple(
            OrganEntry(name=organ.name, value=organ.value, description=organ.description, part_of=organ.part_of)
            for organ in dataset.labels.organs
        ),
        ignore_value=dataset.labels.ignore_value,
        foreground=_measure_foreground(samples, num_channels=len(dataset.channel_names)),
        cases=cases,
        regions=_name_regions(dataset.labels),
    )
    return fingerprint, tuple(problems)


def _name_regions(labels: LabelSet) -> tuple[RegionEntry, ...]:
    names = {organ.value: organ.name for organ in labels.organs}
    return tuple(
        RegionEntry(name=region.name, organs=tuple(names[value] for value in region.values))
        for region in labels.regions
    )


def _measure_foreground(samples: list[np.ndarray], *, num_channels: int) -> tuple[IntensityStatistics | None, ...]:
    if not samples:
        return (None,) * num_channels
    pooled = np.concatenate(samples, axis=1)  # (C, N)
    return tuple(measure_intensities(channel) for channel in pooled)
