"""Checks the contents of scans: grids, label values, intensities, duplicates.

Owns: the checks, each of which returns `Problem`s with values and remedies, and raises nothing.
Does not own: damaged files (`io/image.py`), the layout of a dataset (`datasets/dataset.py`), collecting the problems
(`fingerprint.py`).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from autoseg.datasets.dataset import LabelSet
from autoseg.errors import Problem
from autoseg.io.geometry import ImageGeometry, grids_differ, small_shift
from autoseg.io.voxels import describe_odd_values
from autoseg.organs import find_modality
from autoseg.planning.fingerprint.case_statistics import CaseStatistics, IntensityStatistics

CHUNK_VOXELS = 2**21  # label values are counted in chunks, since counting needs eight bytes a voxel
MAX_VALUES_SHOWN = 8


def check_grids(case_id: str, *, image: ImageGeometry, others: Mapping[str, ImageGeometry]) -> list[Problem]:
    """Compare the grid of the first channel with those of the other channels and the label map.

    A shift below 0.1 voxel is a warning, and the first channel's grid is used; a larger one is an error.
    """
    problems = []
    for name, geometry in others.items():
        fault = grids_differ(image, geometry, names=("image", name))
        if fault is not None:
            problems.append(Problem(case_id, fault))
            continue
        note = small_shift(image, geometry, name=name)
        if note is not None:
            problems.append(Problem(case_id, note, is_error=False))
    return problems


def count_values(labels: np.ndarray) -> dict[int, int]:
    """Count the voxels of every value of an integer array."""
    flat = labels.reshape(-1)
    if flat.size and (int(flat.min()) < 0 or int(flat.max()) > np.iinfo(np.uint16).max):
        values, counts = np.unique(flat, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    total = np.zeros(np.iinfo(np.uint16).max + 1, dtype=np.int64)
    for start in range(0, flat.size, CHUNK_VOXELS):
        counts = np.bincount(flat[start : start + CHUNK_VOXELS])
        total[: counts.size] += counts
    return {int(value): int(total[value]) for value in np.flatnonzero(total)}


def check_label_values(case_id: str, *, counts: Mapping[int, int], labels: LabelSet) -> list[Problem]:
    """Compare the values of a label map with those that the dataset declares."""
    organs = {organ.value: organ.name for organ in labels.organs}
    known = {0, *organs} | (set() if labels.ignore_value is None else {labels.ignore_value})
    unknown = sorted(value for value in counts if value not in known)
    problems = []
    if unknown:
        shown = [f"{value} ({counts[value]} voxels)" for value in unknown[:MAX_VALUES_SHOWN]]
        more = f" and {len(unknown) - len(shown)} more" if len(unknown) > len(shown) else ""
        negative = " Negative values are never labels." if unknown[0] < 0 else ""
        problems.append(
            Problem(
                case_id,
                f"label holds {', '.join(shown)}{more}, not in labels {_declared(organs)}.{negative} "
                "Correct the label map, or declare the value in dataset.json.",
            )
        )
    if not any(value in organs for value in counts) and not unknown:
        problems.append(
            Problem(case_id, "label is empty: no organ has a voxel; kept as a case without organs.", is_error=False)
        )
    return problems


def _declared(organs: Mapping[int, str]) -> str:
    shown = [f"{value}: {name}" for value, name in sorted(organs.items())[:MAX_VALUES_SHOWN]]
    return "{0: background, " + ", ".join(shown) + (", ...}" if len(organs) > MAX_VALUES_SHOWN else "}")


def check_intensities(case_id: str, *, channel_name: str, facts: IntensityStatistics) -> list[Problem]:
    """Warn of a constant channel, and of a CT whose values are not Hounsfield units."""
    is_ct = find_modality([channel_name]) == "ct"
    text = describe_odd_values(facts.minimum, facts.maximum, channel=channel_name, is_ct=is_ct)
    return [] if text is None else [Problem(case_id, text, is_error=False)]


def check_duplicates(cases: Iterable[CaseStatistics]) -> list[Problem]:
    """Warn of cases with the same voxels, which would be a leak between training and validation."""
    first_of: dict[str, str] = {}
    problems = []
    for case in cases:
        if not case.voxel_digest:
            continue
        first = first_of.setdefault(case.voxel_digest, case.case_id)
        if first != case.case_id:
            text = f"holds the same voxels as {first}: a leak between folds; both go to one fold. Remove one."
            problems.append(Problem(case.case_id, text, is_error=False))
    return problems


def check_annotations(cases: Iterable[CaseStatistics], *, annotated: Mapping[str, Collection[str]]) -> list[Problem]:
    """Warn of organs in a label map that were not annotated there according to `annotated_labels`.

    Args:
        cases: The measurements.
        annotated: The names of the annotated organs, for the cases in which some were not.
    """
    problems = []
    for case in cases:
        known = annotated.get(case.case_id)
        others = [organ.name for organ in case.organs if known is not None and organ.name not in known]
        if others:
            more = f" and {len(others) - MAX_VALUES_SHOWN} more" if len(others) > MAX_VALUES_SHOWN else ""
            text = (
                f"label holds {', '.join(others[:MAX_VALUES_SHOWN])}{more}, which annotated_labels says were not "
                "annotated in it: these voxels count nowhere."
            )
            problems.append(Problem(case.case_id, text, is_error=False))
    return problems


def check_organs_present(cases: Sequence[CaseStatistics], *, labels: LabelSet) -> list[Problem]:
    """Refuse organs that are in no case."""
    present = {organ.name for case in cases for organ in case.organs}
    return [
        Problem(
            "", f"organ {organ.name} (value {organ.value}) is in none of {len(cases)} cases. Remove it from labels."
        )
        for organ in labels.organs
        if organ.name not in present
    ]
