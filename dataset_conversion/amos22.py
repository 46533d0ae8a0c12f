"""AMOS22: fifteen abdominal organs on CT and on MRI.

    python -m dataset_conversion.amos22 SOURCE OUT

Owns: where AMOS22 has its files, which of them are CT, and what its labels are.

CT and MRI become two datasets, OUT/amos22_ct and OUT/amos22_mri: numbers up to 500 are CT, those above are MRI. The
training and the validation part have label maps and are to train on; `imagesTs` has none.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import Problem
from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, listed_cases, names_seen, report_missing, require
from dataset_conversion.source import Origin, SourceCase, SourceDataset, numbered

ORIGIN = Origin(
    name="amos22",
    title="AMOS22, abdominal organs on CT and MRI",
    licence="CC-BY 4.0",
    reference="Ji et al., AMOS: A Large-Scale Abdominal Multi-Organ Benchmark, NeurIPS 2022.",
    layout="dataset.json, imagesTr/, labelsTr/, imagesVa/, labelsVa/ and imagesTs/ of amos22.zip",
    get_it="Download amos22.zip from https://zenodo.org/records/7155725 and unpack it.",
)
ORGANS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "urinary bladder"),
    "prostate or uterus",
)
LAST_CT = 500
CASE = r"amos_\d{4}"


def find(source: Path) -> list[SourceDataset]:
    """Find the cases of both modalities.

    Raises:
        DatasetError: A folder is missing.
        UsageError: dataset.json cannot be read.
    """
    require(source, "dataset.json", "imagesTr", "labelsTr", "imagesVa", "labelsVa", origin=ORIGIN)
    cases: list[SourceCase] = []
    problems: list[Problem] = []
    for part in ("Tr", "Va"):
        images, label = [f"images{part}/{{case}}.nii.gz"], f"labels{part}/{{case}}.nii.gz"
        found, faults = find_cases(source, images=images, label=label, case=CASE)
        cases, problems = cases + found, problems + faults
    tests, _ = find_cases(source, images=["imagesTs/{case}.nii.gz"], label=None, case=CASE)
    expected = listed_cases(source / "dataset.json", "training", "validation", *(["test"] if tests else []))
    return [_choose(cases + tests, problems, expected, is_ct=is_ct) for is_ct in (True, False)]


def _choose(
    cases: Sequence[SourceCase], problems: Sequence[Problem], expected: Sequence[str], *, is_ct: bool
) -> SourceDataset:
    """Make a dataset of the cases of one modality."""
    own = [case for case in cases if is_ct_name(case.case_id) == is_ct]
    faults = [problem for problem in problems if is_ct_name(problem.case_id) == is_ct]
    found = names_seen(own, faults)
    wanted = sorted(name for name in dict.fromkeys(expected) if is_ct_name(name) == is_ct)
    name = "amos22_ct" if is_ct else "amos22_mri"
    return SourceDataset(
        channel_names=["CT" if is_ct else "MRI"],
        labels=numbered(ORGANS),
        cases=own,
        problems=faults + report_missing(wanted, found, origin=ORIGIN),
        folder=name,
        name=name,
    )


def is_ct_name(name: str) -> bool:
    """Tell CT from MRI by the number of a case."""
    number = name.rpartition("_")[2]
    return number.isdecimal() and int(number) <= LAST_CT


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
