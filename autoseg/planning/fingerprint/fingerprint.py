"""The fingerprint: what was measured of every case of a dataset, and what is wrong with its contents.

Owns: `Fingerprint`, `make_fingerprint`.
Does not own: how a case is read and measured (`measure_case.py`), what is kept of earlier runs (`case_cache.py`),
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
    """An organ as the dataset declares it; `part_of` are regions that tell what it is where its name does not."""

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
        name: Begins the ids of its cases.
        channel_names: In the order of the channels.
        labels: What its label values mean.
        ignore_value: Label value that counts nowhere.
        foreground: As of `Fingerprint`, in its own cases.
    """

    name: str
    channel_names: tuple[str, ...]
    labels: tuple[LabelEntry, ...]
    ignore_value: int | None
    foreground: tuple[IntensityStatistics | None, ...]


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
        regions: Named unions of organs.
        datasets: Where several are planned together; the channels and foreground above are then the first one's.
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
        """Spacing of each case, (N, 3)."""
        return np.array([case.spacing_zyx_mm for case in self.cases])

    @property
    def cropped_sizes_zyx(self) -> np.ndarray:
        """Size of each cropped case in voxels, (N, 3)."""
        return np.array([case.cropped_size_zyx for case in self.cases])

    def organ_widths_mm(self, axis: Axis) -> dict[str, float]:
        """Return the median in-plane width of each organ, cutting along an axis; absent organs are left out.

        Where organs are in regions alone, of these.
        """
        number = AXIS_NUMBER[axis]
        return self._medians(lambda case: ((organ.name, organ.width_zyx_mm[number]) for organ in case.organs))

    def organ_extents_mm(self, axis: Axis) -> dict[str, float]:
        """Return the median extent of each organ along an axis, counting the slices that hold it."""
        number = AXIS_NUMBER[axis]
        return self._medians(
            lambda case: ((organ.name, organ.slices_zyx[number] * case.spacing_zyx_mm[number]) for organ in case.organs)
        )

    def organ_components(self) -> dict[str, list[int]]:
        """Return for each organ the number of its connected pieces in every case that holds it."""
        found: dict[str, list[int]] = {organ.name: [] for organ in self.organs}
        for case in self.cases:
            for organ in case.organs:
                if organ.name in found:  # not a region
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
        dataset: Its cases, channels and labels.
        num_workers: Processes.
        cache: What earlier runs measured; cases whose files are the same are not read again. None: all are read.

    Returns:
        The fingerprint of the usable cases, and every problem of every case in the order of the cases. What reading
        the dataset's layout found (`dataset.problems`) is not repeated.

    Raises:
        DatasetError: No case is usable; carries all problems.
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
