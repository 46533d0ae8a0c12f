"""ACDC: both ventricles and the myocardium on cine MRI, two moments of the heartbeat of each patient.

    python -m dataset_conversion.acdc SOURCE OUT

Owns: where ACDC has its files, which frames a patient must have, and what its labels are.

A patient's two labeled frames become two cases of one patient; the whole film, patient001_4d.nii.gz, is left out. The
patients of `training` are to train on, those of `testing` go to `imagesTs` and `labelsTs`.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import Problem
from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, in_ranges, names_seen, report_missing, require, with_patient
from dataset_conversion.source import Origin, SourceCase, SourceDataset

ORIGIN = Origin(
    name="acdc",
    title="ACDC, ventricles and myocardium on cine MRI",
    licence="CC-BY-NC-SA 4.0",
    reference="Bernard et al., Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and "
    "Diagnosis: Is the Problem Solved?, IEEE TMI 37, 2018.",
    layout="training/patient001/patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz and Info.cfg, and so on",
    get_it="Download it from https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html and unpack it.",
)
LABELS = {"right ventricle": 1, "myocardium": 2, "left ventricle": 3}
NUMBERS = {"training": range(1, 101), "testing": range(101, 151)}


def find(source: Path) -> list[SourceDataset]:
    """Find the labeled frames of all patients.

    Raises:
        DatasetError: `training` is missing.
    """
    require(source, "training", origin=ORIGIN)
    cases: list[SourceCase] = []
    problems: list[Problem] = []
    for part, numbers in NUMBERS.items():
        if not (source / part).is_dir():
            continue
        found, faults = find_cases(
            source,
            images=[f"{part}/*/{{case}}.nii.gz"],
            label=f"{part}/*/{{case}}_gt.nii.gz",
            case=r"patient\d{3}_frame\d{2}",
            held_out=part == "testing",
        )
        names = names_seen(found, faults)
        expected = [f"patient{number:03d}" for number in numbers]
        problems += faults + report_frames(source / part, names)
        problems += report_missing(expected, {name.partition("_")[0] for name in names}, origin=ORIGIN)
        cases += found
    return [
        SourceDataset(
            channel_names=["cine MRI"],
            labels=LABELS,
            cases=with_patient(cases, r"(patient\d{3})_"),
            problems=problems,
        )
    ]


def report_frames(folder: Path, found: Sequence[str]) -> list[Problem]:
    """Return a problem for each patient without the frames that its Info.cfg names, "ED: 1" and "ES: 12"."""
    problems = []
    for path in sorted(folder.glob("patient*/Info.cfg")):
        patient = path.parent.name
        numbers = re.findall(r"^E[DS]: *(\d+)", path.read_text(errors="replace"), flags=re.MULTILINE)
        wanted = [f"{patient}_frame{int(number):02d}" for number in numbers]
        missing = [name for name in wanted if name not in found]
        if missing:
            names = in_ranges(missing, among=wanted)
            problems.append(Problem(patient, f"{names}: not there, though Info.cfg names it. {ORIGIN.get_it}"))
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
