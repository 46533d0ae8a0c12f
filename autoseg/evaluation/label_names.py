"""Names of label values, from a dataset's `dataset.json`.

Owns: `read_dataset_labels`, for nnU-Net's `{"liver": 1}` and MSD's `{"1": "liver"}`.
Does not own: the dataset itself (`dataset.py`), names that a label map carries (`image_io.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.errors import UsageError
from autoseg.files import read_json

BACKGROUND_VALUE = 0
IGNORE_NAME = "ignore"  # nnU-Net's word
LARGEST_VALUE = 65535


@dataclass(frozen=True)
class DatasetLabels:
    """What the label values of a dataset mean.

    Attributes:
        names: Organ name by label value, without the background.
        ignore_value: Value of voxels that count nowhere, if the dataset has one.
    """

    names: dict[int, str]
    ignore_value: int | None


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
    for key, entry in labels.items():
        name, value = (entry, _as_value(key)) if isinstance(entry, str) else (key, _as_value(entry))
        if value is None:
            raise UsageError(
                f"{path}: the label {key!r} is {entry!r}; expected one whole number from 0 to {LARGEST_VALUE}. "
                "Regions of several values cannot be evaluated; name their parts."
            )
        if value in names:
            raise UsageError(f"{path}: the value {value} has two names, {names[value]!r} and {name!r}. Keep one.")
        names[value] = name
    ignore_value = next((value for value, name in names.items() if name.lower() == IGNORE_NAME), None)
    organs = {value: name for value, name in names.items() if value not in (BACKGROUND_VALUE, ignore_value)}
    if not organs:
        raise UsageError(f"{path} names no organ beside the background. Add the organs to its labels.")
    return DatasetLabels(names=organs, ignore_value=ignore_value)


def _as_value(entry: Any) -> int | None:
    if isinstance(entry, list) and len(entry) == 1:
        entry = entry[0]
    if isinstance(entry, str) and entry.isascii() and entry.isdigit() and len(entry) <= len(str(LARGEST_VALUE)):
        entry = int(entry)
    is_value = isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry <= LARGEST_VALUE
    return entry if is_value else None
