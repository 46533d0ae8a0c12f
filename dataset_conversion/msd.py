"""The Medical Segmentation Decathlon (MSD), all ten tasks.

    python -m dataset_conversion.msd SOURCE OUT

Owns: where the ten tasks have their files, what their channels and labels are, and under which names they are written.

SOURCE is the folder of one task, such as Task09_Spleen/, which becomes the dataset OUT; or a folder with several tasks,
each of which becomes OUT/<task>. The 4D files of brain tumour and prostate become a file a channel. Labels that mean
another thing in each task ("cancer", "Anterior") get a name that says what they are.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.errors import DatasetError, Problem, UsageError
from autoseg.system.atomic_files import read_json
from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, listed_cases, names_seen, nothing_found, report_missing, require
from dataset_conversion.source import Origin, SourceCase, SourceDataset, numbered

ORIGIN = Origin(
    name="msd",
    title="the Medical Segmentation Decathlon",
    licence="CC-BY-SA 4.0",
    reference="Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13, 2022.",
    layout="the folder of a task, such as Task09_Spleen/ with dataset.json, imagesTr/ and labelsTr/, or several such",
    get_it="Download the tasks from http://medicaldecathlon.com and unpack them.",
)
PARTS = ("imagesTr", "labelsTr", "dataset.json")


@dataclass(frozen=True)
class Task:
    """One of the ten.

    Attributes:
        modality: The channels, as the task's dataset.json has them.
        published: The labels from value 1 on, as the task's dataset.json has them.
        names: The same labels as they are written.
    """

    modality: tuple[str, ...]
    published: tuple[str, ...]
    names: tuple[str, ...]


TASKS = {
    "Task01_BrainTumour": Task(
        ("FLAIR", "T1w", "t1gd", "T2w"),
        ("edema", "non-enhancing tumor", "enhancing tumour"),
        ("oedema", "non-enhancing tumour", "enhancing tumour"),
    ),
    "Task02_Heart": Task(("MRI",), ("left atrium",), ("left atrium",)),
    "Task03_Liver": Task(("CT",), ("liver", "cancer"), ("liver", "liver tumour")),
    "Task04_Hippocampus": Task(("MRI",), ("Anterior", "Posterior"), ("anterior hippocampus", "posterior hippocampus")),
    "Task05_Prostate": Task(
        ("T2", "ADC"),
        ("PZ", "TZ"),
        ("peripheral zone of the prostate", "transition zone of the prostate"),
    ),
    "Task06_Lung": Task(("CT",), ("cancer",), ("lung tumour",)),
    "Task07_Pancreas": Task(("CT",), ("pancreas", "cancer"), ("pancreas", "pancreatic tumour")),
    "Task08_HepaticVessel": Task(("CT",), ("Vessel", "Tumour"), ("hepatic vessels", "liver tumour")),
    "Task09_Spleen": Task(("CT",), ("spleen",), ("spleen",)),
    "Task10_Colon": Task(("CT",), ("colon cancer primaries",), ("colon cancer",)),
}


def find(source: Path) -> list[SourceDataset]:
    """Find one task, or each task of a folder.

    Raises:
        DatasetError: No task is there, or the only one lacks a part.
    """
    own_name = source.resolve().name
    if own_name in TASKS:
        return [find_task(source, own_name, folder="")]
    names = [name for name in TASKS if (source / name).is_dir()]
    if not names:
        hint = " Was the task's folder renamed?" if all((source / part).exists() for part in PARTS) else ""
        raise nothing_found(source, ORIGIN, hint=hint, problems=[Problem(name, "is missing.") for name in TASKS])
    return [_find_one_of_several(source / name, name) for name in names]


def _find_one_of_several(source: Path, name: str) -> SourceDataset:
    """Find a task; one that cannot be used stops no other."""
    try:
        return find_task(source, name, folder=name)
    except DatasetError as error:
        problems = [Problem(f"{name}/{one.case_id}", f"{one.message} {ORIGIN.get_it}") for one in error.problems]
    except UsageError as error:
        problems = [Problem(name, str(error))]
    return SourceDataset(channel_names=(), labels={}, cases=(), problems=problems, folder=name, name=name)


def find_task(source: Path, name: str, *, folder: str) -> SourceDataset:
    """Find the cases of one task, and check that it is what was published under its name.

    Raises:
        DatasetError: A part of it is missing.
        UsageError: Its dataset.json cannot be read.
    """
    require(source, *PARTS, origin=ORIGIN)
    task = TASKS[name]
    problems = [Problem(name, fault) for fault in _differences(read_json(source / "dataset.json"), task)]
    cases: list[SourceCase] = []
    if not problems:
        anything = r"[^/.][^/]*"  # a name that begins with "._" is macOS's own
        cases, problems = find_cases(
            source, images=["imagesTr/{case}.nii.gz"], label="labelsTr/{case}.nii.gz", case=anything
        )
        tests, more = find_cases(source, images=["imagesTs/{case}.nii.gz"], label=None, case=anything)
        found = names_seen(cases + tests, problems)
        listed = listed_cases(source / "dataset.json", "training", *(["test"] if tests else []))
        problems += more + report_missing(listed, found, origin=ORIGIN)
        cases += tests
    return SourceDataset(
        channel_names=task.modality,
        labels=numbered(task.names),
        cases=cases,
        problems=problems,
        folder=folder,
        name=name,
    )


def _differences(content: Any, task: Task) -> list[str]:
    """Say where a task's dataset.json is not what was published; case and the two spellings of tumour do not count."""
    expected = {
        "modality": {str(index): name for index, name in enumerate(task.modality)},
        "labels": {"0": "background", **{str(index): name for index, name in enumerate(task.published, start=1)}},
    }
    faults = []
    for key, table in expected.items():
        found = content.get(key) if isinstance(content, dict) else None
        if not isinstance(found, dict) or _plain(found) != _plain(table):
            faults.append(f"{key} of its dataset.json is {found!r:.200}; expected {table}. {ORIGIN.get_it}")
    return faults


def _plain(table: dict[str, Any]) -> dict[str, str]:
    return {key: str(name).strip().lower().replace("tumor", "tumour") for key, name in table.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
