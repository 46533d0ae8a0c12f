"""`label_mapping.json`: what the labels of several datasets mean, as a user may edit it.

Owns: the form of the file; bringing an edited file and the datasets as they are now together.
Does not own: how the mapping is found (`label_mapping.py`), what the plan keeps of it (`data_plan.py`).

    {"datasets": {"btcv": {"spleen": "spleen", "kidney": "kidneys", "artefact": null}, ..},
     "regions": {"kidneys": ["left kidney", "right kidney"]}}

A label means an organ, a region, or null: the background. Organs are all names that are no region.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.dataset_labels import MAX_NAME_LENGTH, LabelSet
from autoseg.errors import UsageError, printable
from autoseg.files import read_json, write_json
from autoseg.planning.label_mapping import LabelMapping, MappedRegion, unify_labels

FILE_NAME = "label_mapping.json"
ABOUT = (
    "Which organ or region each label of each dataset means; null is the background. Labels with the same meaning are "
    "one organ. A region is a union of organs, for labels that say less than those of other datasets. Edit it, then "
    "run autoseg_plan again; delete it to have it made anew."
)


def find_mapping(folder: Path, datasets: Mapping[str, LabelSet]) -> LabelMapping:
    """Return the mapping of a run: that of its file where there is one, else a new one; the file is written.

    Args:
        folder: Of the run.
        datasets: Labels by the name of the dataset.

    Raises:
        UsageError: The file is damaged, or does not fit the datasets.
    """
    found = unify_labels(datasets)
    path = folder / FILE_NAME
    if path.exists():
        found = _edited(read_json(path), found, datasets=datasets, source=printable(str(path)))
    content = pack_mapping(found)
    if not path.exists() or read_json(path) != content:
        write_json(path, content)
    return found


def pack_mapping(mapping: LabelMapping) -> dict[str, Any]:
    """Return the content of the file."""
    return {
        "about": ABOUT,
        "datasets": {dataset: dict(labels) for dataset, labels in mapping.labels.items()},
        "regions": {region.name: list(region.organs) for region in mapping.regions},
    }


def describe_mapping(mapping: LabelMapping) -> list[str]:
    """Say in lines for a person what became one organ, and what is a region."""
    lines = []
    for organ in mapping.organs:
        meant = [
            f"{dataset}: {label}"
            for dataset, labels in mapping.labels.items()
            for label, means in labels.items()
            if means == organ
        ]
        lines.append(f"{organ}  <- {'; '.join(meant)}")
    for region in mapping.regions:
        meant = [
            f"{dataset}: {label}"
            for dataset, labels in mapping.labels.items()
            for label, means in labels.items()
            if means == region.name
        ]
        lines.append(f"{region.name} = {' + '.join(region.organs)}" + (f"  <- {'; '.join(meant)}" if meant else ""))
    return lines


def _edited(content: Any, found: LabelMapping, *, datasets: Mapping[str, LabelSet], source: str) -> LabelMapping:
    """Check what a user wrote; labels that the file lacks mean what was found for them."""
    named, regions = _read_parts(content, source=source)
    labels: dict[str, dict[str, str | None]] = {}
    for dataset, label_set in datasets.items():
        own = named.get(dataset, {})
        known = [organ.name for organ in label_set.organs]
        for name in own:
            if name not in known:
                near = difflib.get_close_matches(name[:MAX_NAME_LENGTH], known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" It has {', '.join(known)[:400]}."
                raise UsageError(f"{source}: dataset {dataset!r} has no label {name!r:.120}.{hint}")
        labels[dataset] = {name: own[name] if name in own else found.labels[dataset][name] for name in known}
    used = {means for of_dataset in labels.values() for means in of_dataset.values() if means is not None}
    regions = {**{one.name: one.organs for one in found.regions if one.name in used - set(regions)}, **regions}
    organs = tuple(
        dict.fromkeys(m for of in labels.values() for m in of.values() if m is not None and m not in regions)
    )
    for name, members in regions.items():
        for organ in members:
            if organ not in organs:
                near = difflib.get_close_matches(organ[:MAX_NAME_LENGTH], organs, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise UsageError(f"{source}: the region {name!r} unites {organ!r}, which no label means.{hint}")
    if not organs:
        raise UsageError(f"{source}: no label means an organ. Give at least one a name in place of null.")
    return LabelMapping(organs, tuple(MappedRegion(name, members) for name, members in regions.items()), labels)


def _read_parts(content: Any, *, source: str) -> tuple[dict[str, dict[str, str | None]], dict[str, tuple[str, ...]]]:
    """Check the form of the file."""
    datasets = content.get("datasets") if isinstance(content, dict) else None
    regions = content.get("regions", {}) if isinstance(content, dict) else None
    if not isinstance(datasets, dict) or not isinstance(regions, dict):
        raise UsageError(
            f'{source} is no mapping of labels; expected {{"datasets": {{"name": {{"label": "organ"}}}}, "regions": '
            "{}}. Mend it, or delete it to have it made anew."
        )
    for dataset, labels in datasets.items():
        for name, means in labels.items() if isinstance(labels, dict) else [(dataset, labels)]:
            if not (means is None or (isinstance(means, str) and 0 < len(means) <= MAX_NAME_LENGTH)):
                raise UsageError(
                    f"{source}: {name!r:.120} means {means!r:.80}; expected the name of an organ, or null."
                )
    for name, organs in regions.items():
        is_list = isinstance(organs, list) and all(isinstance(organ, str) for organ in organs)
        if not is_list or len(set(organs)) < 2 or not 0 < len(name) <= MAX_NAME_LENGTH:
            raise UsageError(f"{source}: the region {name!r:.120} is {organs!r:.80}; expected two organs or more.")
    return datasets, {name: tuple(dict.fromkeys(organs)) for name, organs in regions.items()}
