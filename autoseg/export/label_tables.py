"""Writes the names and colors of label values in formats that other programs read.

Owns: `labels.json` (autoseg itself), `labels.ctbl` (3D Slicer's color table), `labels.tsv` (BIDS).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.config.plans import DataPlan
from autoseg.errors import printable
from autoseg.export.colors import as_bytes, as_hex, organ_color
from autoseg.export.csv_safety import cell
from autoseg.system.atomic_files import write_json, write_text


def write_label_tables(folder: Path, names: Mapping[int, str], *, plan: DataPlan | None = None) -> None:
    """Write all three tables into a folder; an organ's color depends on its position among the values.

    Args:
        folder: The output folder.
        names: The names by label value.
        plan: The data part of the plan, whose regions and datasets `labels.json` names too, for the evaluation.

    Raises:
        OSError: The folder cannot be written.
    """
    write_json(folder / "labels.json", {**name_labels(names), **({} if plan is None else name_plan(plan))})
    write_text(folder / "labels.ctbl", format_ctbl(names))
    write_text(folder / "labels.tsv", format_tsv(names))


def name_labels(names: Mapping[int, str]) -> dict[str, dict[str, int | str]]:
    """Return `{"labels": {name: value}, "colors": {name: "#rrggbb"}}`; `labels` is as in a `dataset.json`."""
    return {
        "labels": {name: value for value, name in sorted(names.items())},
        "colors": {names[value]: as_hex(organ_color(k)) for k, value in enumerate(sorted(names))},
    }


def name_plan(plan: DataPlan) -> dict[str, Any]:
    """Return `{"regions": {name: [organ, ..]}, "datasets": {name: {label: organ, region or null}}}`, if any."""
    regions = {region.name: list(region.organs) for region in plan.regions}
    datasets = {dataset.name: {label.name: label.maps_to for label in dataset.labels} for dataset in plan.datasets}
    return {**({"regions": regions} if regions else {}), **({"datasets": datasets} if datasets else {})}


def format_ctbl(names: Mapping[int, str]) -> str:
    """Return one line "value name red green blue opacity" per label; Slicer shows an underscore as a space."""
    lines = ["# autoseg: value name red green blue opacity", "0 background 0 0 0 0"]
    for k, value in enumerate(sorted(names)):
        red, green, blue = as_bytes(organ_color(k))
        lines.append(f"{value} {'_'.join(printable(names[value]).split())} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"


def format_tsv(names: Mapping[int, str]) -> str:
    """Return the table of a BIDS discrete segmentation: index, name, color."""
    rows = [f"{value}\t{cell(names[value])}\t{as_hex(organ_color(k))}" for k, value in enumerate(sorted(names))]
    return "\n".join(["index\tname\tcolor", *rows]) + "\n"
