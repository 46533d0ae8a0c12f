"""Reads the names of label values from a `dataset.json`, and from the `labels.json` next to predictions.

Owns: `read_dataset_labels`, for nnU-Net's `{"liver": 1}` and MSD's `{"1": "liver"}`; `read_plan_names`.
Does not own: the dataset itself (`datasets/dataset.py`), names inside a label map (`io/image.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from autoseg.datasets.regions import split_regions
from autoseg.errors import UsageError
from autoseg.system.atomic_files import read_json

BACKGROUND_VALUE = 0
IGNORE_NAME = "ignore"  # nnU-Net's word
LARGEST_VALUE = 65535


@dataclass(frozen=True)
class DatasetLabels:
    """The meaning of a dataset's label values.

    Attributes:
        names: The names of organs by label value, without the background.
        ignore_value: The value of voxels that are ignored, or None.
        regions: Named unions of values.
        dataset: The name of the dataset's folder.
    """

    names: dict[int, str]
    ignore_value: int | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dataset: str | None = None

    @cached_property
    def all_names(self) -> dict[int, str]:
        """Return the names, including those of the parts of regions as planning names them."""
        parts, _ = split_regions(self.regions, named=self.names, problems=[])
        return {**self.names, **{part.value: part.name for part in parts}}


@dataclass(frozen=True)
class PlanNames:
    """The names of labels in the plan of a model.

    Attributes:
        datasets: The meaning of each label of each dataset: an organ, a region, or None for the background.
        regions: The organs of each region.
    """

    datasets: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    regions: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_dataset_labels(path: Path) -> DatasetLabels:
    """Read the labels of a `dataset.json`.

    Raises:
        UsageError: The file cannot be read or has no usable `labels`; the message names the entry.
    """
    content = read_json(path)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or not labels:
        raise UsageError(
            f'{path} has no "labels"; expected an entry such as "labels": {{"background": 0, "liver": 1}}.'
        )
    names: dict[int, str] = {}
    regions: dict[str, tuple[int, ...]] = {}
    for key, entry in labels.items():
        values = [_as_value(one) for one in entry] if isinstance(entry, list) else []
        if len(set(values)) > 1 and all(values):
            regions[key] = tuple(sorted({value for value in values if value}))
            continue
        name, value = (entry, _as_value(key)) if isinstance(entry, str) else (key, _as_value(entry))
        if value is None:
            raise UsageError(
                f"{path}: the label {key!r} is {entry!r:.80}; expected a whole number from 0 to {LARGEST_VALUE}, or "
                "for a region a list of numbers from 1."
            )
        if value in names:
            raise UsageError(f"{path}: the value {value} has two names, {names[value]!r} and {name!r}. Keep one.")
        names[value] = name
    ignore_value = next((value for value, name in names.items() if name.lower() == IGNORE_NAME), None)
    organs = {value: name for value, name in names.items() if value not in (BACKGROUND_VALUE, ignore_value)}
    if not organs and not regions:
        raise UsageError(f"{path} names no organ beside the background. Add the organs to its labels.")
    return DatasetLabels(organs, ignore_value, regions, path.resolve().parent.name)


def read_plan_names(predictions: Path) -> PlanNames:
    """Read the names of the plan that were written next to predictions; empty if there is no such file.

    Args:
        predictions: The folder of the predictions, or one of them.
    """
    folder = predictions if predictions.is_dir() else predictions.parent
    try:
        content = read_json(folder / "labels.json")
    except UsageError:
        return PlanNames()
    datasets = content.get("datasets") if isinstance(content, dict) else None
    regions = content.get("regions", {}) if isinstance(content, dict) else None
    if not isinstance(datasets, dict) or not all(_is_meaning(labels) for labels in datasets.values()):
        return PlanNames()
    if not isinstance(regions, dict) or not all(_is_list_of_names(organs) for organs in regions.values()):
        return PlanNames()
    return PlanNames(datasets, regions)


def _is_meaning(labels: Any) -> bool:
    return isinstance(labels, dict) and all(means is None or isinstance(means, str) for means in labels.values())


def _is_list_of_names(organs: Any) -> bool:
    return isinstance(organs, list) and all(isinstance(organ, str) for organ in organs)


def _as_value(entry: Any) -> int | None:
    if isinstance(entry, list) and len(entry) == 1:
        entry = entry[0]
    if isinstance(entry, str) and entry.isascii() and entry.isdigit() and len(entry) <= len(str(LARGEST_VALUE)):
        entry = int(entry)
    is_value = isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry <= LARGEST_VALUE
    return entry if is_value else None
