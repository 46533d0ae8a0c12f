"""Writes the dataset report, with the state, the facts and the problems of every case, as JSON and as a page.

Owns: the form of `dataset_report.json`, and the content of the page.
Does not own: finding problems (`fingerprint/fingerprint.py`, `datasets/dataset.py`), what follows from them
(`pipelines/plan.py`), how the page looks (`dataset_report.html`, filled by `report_page.py`).

The report contains no time and no path of this machine: the same dataset gives the same bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg.errors import Problem
from autoseg.planning.fingerprint.case_statistics import CaseStatistics
from autoseg.planning.fingerprint.fingerprint import Fingerprint
from autoseg.planning.report_page import format_page
from autoseg.system.atomic_files import write_json, write_text

REPORT_VERSION = 1
JSON_NAME, PAGE_NAME = "dataset_report.json", "dataset_report.html"
STAGES = ("layout", "contents", "plan", "preprocessing")


def write_report(
    folder: Path,
    *,
    dataset_name: str,
    case_ids: Iterable[str] = (),
    fingerprint: Fingerprint | None = None,
    used: Sequence[str] = (),
    problems: Mapping[str, Sequence[Problem]],
) -> None:
    """Write the report as JSON and as a page.

    Args:
        folder: The run folder.
        dataset_name: The name of the dataset.
        case_ids: The cases whose files are all there; cases that problems name are added.
        fingerprint: The measurements; None where no case can be used.
        used: The cases that the run uses.
        problems: The problems found in each of `STAGES`.

    Raises:
        OSError: It cannot be written.
    """
    content = describe_dataset(
        dataset_name=dataset_name, case_ids=case_ids, fingerprint=fingerprint, used=used, problems=problems
    )
    write_json(folder / JSON_NAME, content)
    write_text(folder / PAGE_NAME, format_page(content))


def describe_dataset(
    *,
    dataset_name: str,
    case_ids: Iterable[str],
    fingerprint: Fingerprint | None,
    used: Sequence[str],
    problems: Mapping[str, Sequence[Problem]],
) -> dict[str, Any]:
    """Return the content of `dataset_report.json`; the arguments are those of `write_report`."""
    entries: list[dict[str, Any]] = [
        {"stage": stage, "case_id": item.case_id, "message": item.message, "is_error": item.is_error}
        for stage in STAGES
        for item in problems.get(stage, ())
    ]
    failed = {entry["case_id"] for entry in entries if entry["is_error"]}
    noted = {entry["case_id"] for entry in entries}
    channels = () if fingerprint is None else fingerprint.channel_names
    names = sorted({*case_ids, *(name for name in noted if name)})
    names_of = {} if fingerprint is None else {one.name: one.channel_names for one in fingerprint.datasets}
    cases = () if fingerprint is None else fingerprint.cases
    return {
        "version": REPORT_VERSION,
        "dataset": dataset_name,
        "num_cases": len(names),
        "num_used": len(used),
        "organs": [] if fingerprint is None else [organ.name for organ in fingerprint.organs],
        "cases": {name: "error" if name in failed else "warning" if name in noted else "good" for name in names},
        "problems": entries,
        "facts": {
            case.case_id: _describe_case(case, channel_names=names_of.get(case.dataset or "", channels))
            for case in cases
        },
    }


def _describe_case(case: CaseStatistics, *, channel_names: Sequence[str]) -> dict[str, Any]:
    """Return the facts of a case for people; sizes are along canonical axes."""
    return {
        "size_zyx": list(case.size_zyx),
        "spacing_zyx_mm": list(case.spacing_zyx_mm),
        "channels": [
            {"name": name, "minimum": facts.whole.minimum, "maximum": facts.whole.maximum, "mean": facts.whole.mean}
            for name, facts in zip(channel_names, case.channels, strict=True)
        ],
        "organs": [
            {"name": organ.name, "volume_ml": organ.volume_ml, "num_components": organ.num_components}
            for organ in case.organs
        ],
    }
