"""BTCV, "Beyond the Cranial Vault": thirty labeled abdominal CTs with thirteen organs.

    python -m dataset_conversion.btcv SOURCE OUT

Owns: where BTCV has its files and what its labels are. The scans of `Testing` have no label maps.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, names_seen, report_missing, require
from dataset_conversion.source import Origin, SourceDataset, numbered

ORIGIN = Origin(
    name="btcv",
    title="BTCV, abdominal organs on CT",
    licence="terms of use of Synapse project syn3193805; registration needed",
    reference="Landman et al., MICCAI Multi-Atlas Labeling Beyond the Cranial Vault, 2015, doi:10.7303/syn3193805.",
    layout="Training/img/img0001.nii.gz .. and Training/label/label0001.nii.gz .. of RawData.zip",
    get_it="Download Abdomen/RawData.zip from https://www.synapse.org/Synapse:syn3193805 and unpack it.",
)
ORGANS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland"),
)
NUMBERS = tuple(f"{number:04d}" for number in (*range(1, 11), *range(21, 41)))


def find(source: Path) -> list[SourceDataset]:
    """Find the cases, which are called by their numbers: btcv_0001.

    Raises:
        DatasetError: A folder is missing.
    """
    require(source, "Training/img", "Training/label", origin=ORIGIN)
    cases, problems = find_cases(
        source,
        images=["Training/img/img{case}.nii.gz"],
        label="Training/label/label{case}.nii.gz",
        case=r"\d{4}",
    )
    found = names_seen(cases, problems)
    tests, _ = find_cases(source, images=["Testing/img/img{case}.nii.gz"], label=None, case=r"\d{4}")
    return [
        SourceDataset(
            channel_names=["CT"],
            labels=numbered(ORGANS),
            cases=[replace(case, case_id=f"btcv_{case.case_id}") for case in cases + tests],
            problems=problems + report_missing(NUMBERS, found, origin=ORIGIN),
        )
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
