"""The fingerprints in `plans/reference`: few cases that stand for all, or cases made from published figures.

Owns: choosing the cases, making cases, reading and writing `fingerprint.json`, joining datasets as `joined.json` says.
Does not own: measuring scans (`autoseg.planning`), the plans (`reference_plans.py`).

A file holds a valid `Fingerprint`, with these left out that no rule looks at: intensities of single cases, digests of
voxels (cases that share voxels, or a patient, bear the same patient's name instead).
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compact_json import lay_out, round_floats

from autoseg.datasets.dataset import Dataset, LabelSet
from autoseg.datasets.labels import Organ
from autoseg.planning.checks import DatasetCheck
from autoseg.planning.fingerprint.case_statistics import CaseStatistics, IntensityStatistics, OrganStatistics
from autoseg.planning.fingerprint.fingerprint import Fingerprint, OrganEntry
from autoseg.planning.multi_dataset.label_mapping import unify_labels
from autoseg.planning.multi_dataset.merge_datasets import join_checks
from autoseg.system.atomic_files import read_json, write_text

FILE_NAME = "fingerprint.json"
JOINED_NAME = "joined.json"
DIGITS = 5
LINE_LETTERS = 220  # an organ of a case takes one
FEWEST_CASES = 9  # the rule for specks wants eight
SYNTHETIC_CASES = 5  # as many as folds; too few for the rule for specks, whose facts nobody published
LOW_CASES = 2  # of them have the 10th percentile of the slice spacing, so that this is what numpy finds

Triple = tuple[float, float, float]


def read_fingerprint(folder: Path) -> Fingerprint:
    """Read the fingerprint of a dataset's folder, or join those of the folders that a joint plan is made of."""
    if (folder / JOINED_NAME).exists():
        return join([folder.parent / name for name in read_json(folder / JOINED_NAME)["datasets"]])
    return Fingerprint.model_validate(read_json(folder / FILE_NAME))


def write_fingerprint(fingerprint: Fingerprint, folder: Path) -> None:
    """Write a fingerprint, an organ of a case on a line; fields at their default are left out."""
    content = {"version": fingerprint.version, **fingerprint.model_dump(mode="json", exclude_defaults=True)}
    write_text(
        folder / FILE_NAME, lay_out(round_floats(content, digits=DIGITS), width=LINE_LETTERS, fills_objects=True)
    )


def join(folders: Sequence[Path]) -> Fingerprint:
    """Join datasets as `autoseg_plan` joins those that it is given together, their labels unified by name."""
    checks = {}
    for folder in folders:
        one = read_fingerprint(folder)
        labels = LabelSet(tuple(Organ(organ.name, organ.value, organ.description) for organ in one.organs))
        dataset = Dataset(
            name=one.dataset_name,
            root=folder,
            channel_names=one.channel_names,
            labels=labels,
            cases=(),
            problems=(),
        )
        checks[folder.name] = DatasetCheck(dataset, one, layout=(), contents=())
    mapping = unify_labels({name: check.dataset.labels for name, check in checks.items()})
    return join_checks(checks, mapping).fingerprint


def shorten(fingerprint: Fingerprint) -> Fingerprint:
    """Leave out of each case what no rule looks at, and round the rest."""
    group_of = fingerprint.patient_groups()
    cases = tuple(
        case.model_copy(update={"patient_id": group_of[case.case_id], "channels": (), "voxel_digest": ""})
        for case in fingerprint.cases
    )
    content = fingerprint.model_copy(update={"cases": cases}).model_dump(mode="json")
    return Fingerprint.model_validate(round_floats(content, digits=DIGITS))


def choose_cases(fingerprint: Fingerprint, *, plan_of: Callable[[Fingerprint], Any]) -> Fingerprint:
    """Keep the fewest cases, evenly spread over the sizes of the scans, that give the plan that all of them give.

    Args:
        fingerprint: Of all cases; what is kept of the dataset as a whole, such as its intensities, is that of all.
        plan_of: Gives what must not change, from a fingerprint.
    """
    wanted = plan_of(fingerprint)
    by_size = sorted(fingerprint.cases, key=lambda case: (_size_mm3(case), case.case_id))
    for count in range(FEWEST_CASES, len(by_size)):
        places = [round(place * (len(by_size) - 1) / (count - 1)) for place in range(count)]
        chosen = fingerprint.model_copy(update={"cases": tuple(by_size[place] for place in places)})
        if plan_of(chosen) == wanted:
            return chosen
    return fingerprint


def make_from_published(facts: dict[str, Any]) -> Fingerprint:
    """Make the fingerprint of a dataset from published figures alone; nothing in it was measured here.

    Its cases are all alike, of median size and spacing, but for the 10th percentile of the slice spacing where that is
    known. An organ is a ball of the published volume, in one piece. One whose volume is not published is in no case.

    Args:
        facts: The content of a `published.json`; plans/README.md says what it holds.
    """
    low_mm = facts["slice_spacing_percentile_10_mm"]
    foreground = facts["foreground"]
    return Fingerprint(
        dataset_name=f"{facts['name']} (synthetic, from published figures)",
        channel_names=tuple(facts["channel_names"]),
        organs=tuple(
            OrganEntry(name=organ["name"], value=organ["value"], description=None) for organ in facts["organs"]
        ),
        ignore_value=None,
        foreground=tuple(
            None if foreground is None else IntensityStatistics(num_voxels=0, **foreground)
            for _ in facts["channel_names"]
        ),
        cases=tuple(
            _make_case(facts, number=number, slice_mm=low_mm if number < LOW_CASES else None)
            for number in range(SYNTHETIC_CASES)
        ),
    )


def _make_case(facts: dict[str, Any], *, number: int, slice_mm: float | None) -> CaseStatistics:
    spacing_z, spacing_y, spacing_x = facts["median_spacing_zyx_mm"]
    size_z, size_y, size_x = facts["median_size_zyx"]
    spacing = (slice_mm or spacing_z, spacing_y, spacing_x)
    size = (round(size_z * spacing_z / spacing[0]), size_y, size_x)
    name = f"synthetic_{number + 1}"
    known = [organ for organ in facts["organs"] if organ["volume_ml"] is not None]
    return CaseStatistics(
        case_id=name,
        patient_id=name,
        spacing_zyx_mm=spacing,
        size_zyx=size,
        cropped_size_zyx=size,
        removed_fraction=facts["removed_fraction"],
        slice_correlation_zyx=(0.0, 0.0, 0.0),
        channels=(),
        organs=tuple(
            _make_ball(organ["name"], volume_ml=organ["volume_ml"], spacing_zyx_mm=spacing, size_zyx=size)
            for organ in known
        ),
        voxel_digest="",
    )


def _make_ball(
    name: str, *, volume_ml: float, spacing_zyx_mm: Triple, size_zyx: tuple[int, int, int]
) -> OrganStatistics:
    """Measure a ball as `autoseg.planning.fingerprint.case_statistics` measures an organ."""
    volume_mm3 = 1000 * volume_ml
    diameter_mm = (6 * volume_mm3 / math.pi) ** (1 / 3)
    slices = [
        min(size, max(1, round(diameter_mm / spacing))) for size, spacing in zip(size_zyx, spacing_zyx_mm, strict=True)
    ]
    areas = [volume_mm3 / (count * spacing) for count, spacing in zip(slices, spacing_zyx_mm, strict=True)]
    return OrganStatistics(
        name=name,
        num_voxels=round(volume_mm3 / math.prod(spacing_zyx_mm)),
        volume_ml=volume_ml,
        num_components=1,
        slices_zyx=(slices[0], slices[1], slices[2]),
        slice_fraction_zyx=_triple([count / size for count, size in zip(slices, size_zyx, strict=True)]),
        width_zyx_mm=_triple([2 * math.sqrt(area / math.pi) for area in areas]),
    )


def _size_mm3(case: CaseStatistics) -> float:
    return math.prod(case.cropped_size_zyx) * math.prod(case.spacing_zyx_mm)


def _triple(values: list[float]) -> Triple:
    first, second, third = values
    return first, second, third
