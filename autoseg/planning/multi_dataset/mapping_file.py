"""`label_mapping.json`: what the labels of several datasets mean, as a user may edit it.

Owns: the form of the file, and when it is written.
Does not own: how the mapping is found (`label_mapping.py`), what of an edited file counts (`mapping_merge.py`), what
the plan keeps of it (`config/data.py`).

    {"datasets": {"btcv": {"spleen": "spleen", "kidney": "kidneys", "artefact": null}, ..},
     "regions": {"kidneys": ["left kidney", "right kidney"]},
     "found": {"datasets": .., "regions": ..}}

A label means an organ, a region, or null: the background. `found` is what autoseg wrote by itself the last time; what
differs from it above is a user's edit, and stays; all else follows the datasets. Without `found` all is the user's.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.datasets.labels import MAX_NAME_LENGTH, LabelSet
from autoseg.errors import UsageError, printable
from autoseg.planning.multi_dataset.label_mapping import LabelMapping, unify_labels
from autoseg.planning.multi_dataset.mapping_merge import MappingFile, Meanings, merge_edits, to_meanings
from autoseg.system.atomic_files import read_json, write_json

log = logging.getLogger("autoseg")

FILE_NAME = "label_mapping.json"
ABOUT = (
    "Which organ or region each label of each dataset means; null is the background. Labels with the same meaning are "
    "one organ. A region is a union of organs, for labels that say less than those of other datasets. Edit datasets "
    "and regions, then run autoseg_plan again; leave found, which shows what was not edited. Delete the file to have "
    "it made anew."
)


def find_mapping(folder: Path, datasets: Mapping[str, LabelSet]) -> LabelMapping:
    """Return the mapping of a run, with what a user edited in its file; the file is written where it changes.

    What the file says of datasets that are not among these stays in it.

    Args:
        folder: Of the run.
        datasets: Labels by the name of the dataset.

    Raises:
        UsageError: The file is damaged, or does not fit the datasets.
        OSError: It cannot be written.
    """
    found = unify_labels(datasets)
    file = read_mapping(folder)
    mapping, new = found, MappingFile(to_meanings(found), to_meanings(found))
    if file is not None:
        mapping, new = merge_edits(found, file, datasets=datasets, source=_source(folder))
        if others := [name for name in file.written.labels if name not in datasets]:
            told = printable(", ".join(others)[:200])
            log.info("%s keeps what it says of datasets that are not planned now: %s", FILE_NAME, told)
    if file is None or read_json(folder / FILE_NAME) != _pack(new):
        write_json(folder / FILE_NAME, _pack(new))
    return mapping


def read_mapping(folder: Path) -> MappingFile | None:
    """Read the file of a run; None where there is none.

    Raises:
        UsageError: It is damaged.
    """
    path = folder / FILE_NAME
    if not (path.exists() or path.is_symlink()):
        return None
    content, source = read_json(path), _source(folder)
    written = _read_meanings(content, source=source)
    found = content.get("found", {"datasets": {}})
    return MappingFile(written, _read_meanings(found, source=f"{source}: found"))


def describe_mapping(mapping: LabelMapping) -> list[str]:
    """Say in lines for a person what became one organ, and what is a region."""
    meant: dict[str, list[str]] = {}
    for dataset, labels in mapping.labels.items():
        for label, means in labels.items():
            meant.setdefault(means or "", []).append(f"{dataset}: {label}")
    lines = [f"{organ}  <- {'; '.join(meant.get(organ, ['only within regions']))}" for organ in mapping.organs]
    for region in mapping.regions:
        labels_of_it = f"  <- {'; '.join(meant[region.name])}" if region.name in meant else ""
        lines.append(f"{region.name} = {' + '.join(region.organs)}{labels_of_it}")
    return lines + ([f"(background)  <- {'; '.join(meant[''])}"] if "" in meant else [])


def _pack(file: MappingFile) -> dict[str, Any]:
    return {"about": ABOUT, **_pack_meanings(file.written), "found": _pack_meanings(file.found)}


def _pack_meanings(meanings: Meanings) -> dict[str, Any]:
    return {
        "datasets": {dataset: dict(labels) for dataset, labels in meanings.labels.items()},
        "regions": {name: list(organs) for name, organs in meanings.regions.items()},
    }


def _source(folder: Path) -> str:
    return printable(str(folder / FILE_NAME))


def _read_meanings(content: Any, *, source: str) -> Meanings:
    """Check the form of what stands in the file."""
    datasets = content.get("datasets") if isinstance(content, dict) else None
    regions = content.get("regions", {}) if isinstance(content, dict) else None
    if (
        not isinstance(datasets, dict)
        or not all(isinstance(labels, dict) for labels in datasets.values())
        or not isinstance(regions, dict)
    ):
        raise UsageError(
            f'{source} is no mapping of labels; expected {{"datasets": {{"name": {{"label": "organ"}}}}, "regions": '
            "{}}. Mend it, or delete it to have it made anew."
        )
    for labels in datasets.values():
        for name, means in labels.items():
            if means is not None and not _is_name(means):
                raise UsageError(
                    f"{source}: the label {name!r:.120} means {means!r:.80}; expected null, or the name of an organ "
                    f"or region of up to {MAX_NAME_LENGTH} characters."
                )
    for name, organs in regions.items():
        if not _is_name(name):
            raise UsageError(
                f"{source}: a region is called {name!r:.80}; expected a name of up to {MAX_NAME_LENGTH} characters."
            )
        is_list = isinstance(organs, list) and all(_is_name(organ) for organ in organs)
        if not is_list or len(set(organs)) < 2:
            raise UsageError(
                f"{source}: the region {name!r:.120} unites {organs!r:.80}; expected a list of two organs or more."
            )
    return Meanings(datasets, {name: tuple(dict.fromkeys(organs)) for name, organs in regions.items()})


def _is_name(value: Any) -> bool:
    """Say whether a value can be the name of an organ: text without blanks around it, and without half characters."""
    is_text = isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH and value == value.strip()
    return is_text and not any("\ud800" <= letter <= "\udfff" for letter in value)
