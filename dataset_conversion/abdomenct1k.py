"""AbdomenCT-1K: a thousand abdominal CTs with liver, kidneys, spleen and pancreas.

    python -m dataset_conversion.abdomenct1k SOURCE OUT

Owns: where AbdomenCT-1K has its files and what its labels are.

SOURCE holds the three unpacked archives of images and the folder Mask/ that Mask.7z was unpacked into. Scans without a
published mask become scans to predict. Most scans come from LiTS, KiTS19, the Medical Segmentation Decathlon and
Pancreas-CT: a model that has learned from those has seen them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import Problem
from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, find_paths, in_ranges, report_count, require
from dataset_conversion.source import Origin, SourceDataset

ORIGIN = Origin(
    name="abdomenct1k",
    title="AbdomenCT-1K, four abdominal organs on CT",
    licence="CC-BY 4.0",
    reference="Ma et al., AbdomenCT-1K: Is Abdominal Organ Segmentation a Solved Problem?, IEEE TPAMI 44, 2022.",
    layout="AbdomenCT-1K-ImagePart1/Case_00001_0000.nii.gz .., AbdomenCT-1K-ImagePart2/, AbdomenCT-1K-ImagePart3/ and "
    "Mask/Case_00001.nii.gz ..",
    get_it="Download it from https://zenodo.org/records/5903099, 5903846 and 5903769, and unpack Mask.7z into Mask/.",
)
LABELS = {"liver": 1, "kidneys": 2, "spleen": 3, "pancreas": 4}
PARTS = tuple(f"AbdomenCT-1K-ImagePart{part}" for part in (1, 2, 3))
CASE, IMAGE_ENDING = r"Case_\d{5}", "_0000.nii.gz"
NUM_MASKS = 1000


def find(source: Path) -> list[SourceDataset]:
    """Find the cases of all three parts.

    Raises:
        DatasetError: Mask/ or every part is missing.
    """
    parts = [part for part in PARTS if (source / part).is_dir()]
    require(source, "Mask", *(PARTS if not parts else ()), origin=ORIGIN)
    cases, problems = find_cases(
        source,
        images=[f"AbdomenCT-1K-ImagePart*/{{case}}{IMAGE_ENDING}"],
        label="Mask/{case}.nii.gz",
        case=CASE,
        may_lack_label=True,
    )
    if len(parts) < len(PARTS):  # the masks of a part that was never unpacked need no line each
        lost = [problem.case_id for problem in problems if IMAGE_ENDING in problem.message]
        problems = [problem for problem in problems if problem.case_id not in lost]
        absent = " and ".join(part for part in PARTS if part not in parts)
        named = sorted(find_paths(source, "Mask/{case}.nii.gz", case=CASE))
        message = (
            f"missing, and the scans of {len(lost)} masks with it: {in_ranges(lost, among=named)}. {ORIGIN.get_it}"
        )
        problems.append(Problem(absent, message))
    num_masks = sum(case.label is not None for case in cases)
    return [
        SourceDataset(
            channel_names=["CT"],
            labels=LABELS,
            cases=cases,
            problems=problems + report_count("cases with a mask", expected=NUM_MASKS, found=num_masks, origin=ORIGIN),
        )
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
