"""FLARE22: the fifty labeled abdominal CTs of the challenge, with thirteen organs.

    python -m dataset_conversion.flare22 SOURCE OUT

Owns: where FLARE22 has its files and what its labels are.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, names_seen, report_missing, require
from dataset_conversion.source import Origin, SourceDataset, numbered

ORIGIN = Origin(
    name="flare22",
    title="FLARE22, abdominal organs on CT",
    licence="CC-BY 4.0 (labels); the scans come from the Medical Segmentation Decathlon, CC-BY-SA 4.0",
    reference="Ma et al., Unleashing the strengths of unlabeled data in pan-cancer abdominal organ quantification: "
    "the FLARE22 challenge, Lancet Digital Health 6, 2024.",
    layout="images/FLARE22_Tr_0001_0000.nii.gz .. and labels/FLARE22_Tr_0001.nii.gz .. of FLARE22Train.zip",
    get_it="Download FLARE22Train.zip from https://zenodo.org/records/7860267 and unpack it.",
)
ORGANS = (
    *("liver", "right kidney", "spleen", "pancreas", "aorta", "inferior vena cava", "right adrenal gland"),
    *("left adrenal gland", "gallbladder", "oesophagus", "stomach", "duodenum", "left kidney"),
)
CASES = tuple(f"FLARE22_Tr_{number:04d}" for number in range(1, 51))


def find(source: Path) -> list[SourceDataset]:
    """Find the labeled cases.

    Raises:
        DatasetError: A folder is missing.
    """
    require(source, "images", "labels", origin=ORIGIN)
    cases, problems = find_cases(
        source,
        images=["images/{case}_0000.nii.gz"],
        label="labels/{case}.nii.gz",
        case=r"FLARE22_Tr_\d{4}",
    )
    found = names_seen(cases, problems)
    return [
        SourceDataset(
            channel_names=["CT"],
            labels=numbered(ORGANS),
            cases=cases,
            problems=problems + report_missing(CASES, found, origin=ORIGIN),
        )
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
