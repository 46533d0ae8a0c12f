"""WORD: 150 CTs of the whole abdomen with sixteen organs.

    python -m dataset_conversion.word SOURCE OUT

Owns: where WORD has its files and what its labels are.

The training and the validation part are to train on. The test part goes to `imagesTs`, and its label maps, which are
published apart, to `labelsTs` where `labelsTs/` lies beside the rest.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import Problem
from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, report_count, require
from dataset_conversion.source import Origin, SourceCase, SourceDataset, numbered

ORIGIN = Origin(
    name="word",
    title="WORD, organs of the whole abdomen on CT",
    licence="GPL-3.0; for research, not for commercial use",
    reference="Luo et al., WORD: A large scale dataset, benchmark and clinical applicable study for abdominal organ "
    "segmentation from CT image, Medical Image Analysis 82, 2022.",
    layout="imagesTr/word_0002.nii.gz .., labelsTr/, imagesVal/, labelsVal/, imagesTs/ and labelsTs/",
    get_it="Ask for it at https://github.com/HiLab-git/WORD, which has labelsTs too.",
)
ORGANS = (
    *("liver", "spleen", "left kidney", "right kidney", "stomach", "gallbladder", "oesophagus", "pancreas"),
    *("duodenum", "colon", "bowel", "adrenal glands", "rectum", "urinary bladder", "left femoral head"),
    "right femoral head",
)
NUM_CASES = {"Tr": 100, "Val": 20, "Ts": 30}


def find(source: Path) -> list[SourceDataset]:
    """Find the cases of all parts.

    Raises:
        DatasetError: A folder is missing.
    """
    require(source, "imagesTr", "labelsTr", "imagesVal", "labelsVal", origin=ORIGIN)
    cases: list[SourceCase] = []
    problems: list[Problem] = []
    for part, expected in NUM_CASES.items():
        found, faults = find_cases(
            source,
            images=[f"images{part}/{{case}}.nii.gz"],
            label=f"labels{part}/{{case}}.nii.gz",
            case=r"word_\d{4}",
            held_out=part == "Ts",
            may_lack_label=part == "Ts",
        )
        cases += found
        if found or faults or part != "Ts":
            faults += report_count(
                f"cases of images{part}", expected=expected, found=len(found) + len(faults), origin=ORIGIN
            )
        problems += faults
    return [
        SourceDataset(
            channel_names=["CT"],
            labels=numbered(ORGANS),
            cases=cases,
            problems=problems,
        )
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
