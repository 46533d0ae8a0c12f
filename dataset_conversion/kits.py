"""KiTS19, KiTS21 and KiTS23: kidneys, their tumours and (from 2021 on) cysts on CT.

    python -m dataset_conversion.kits SOURCE OUT

Owns: where the three years have their files, how they are recognized, and what their labels and regions are.

SOURCE is the folder with case_00000/, case_00001/ ..; each holds imaging.nii.gz and segmentation.nii.gz, and in 2021
aggregated_MAJ_seg.nii.gz, the vote of the annotators. Labels are written as the challenge measures them, as regions one
within the other: kidney with everything in it, tumour or cyst, tumour. A patient of one year may come again in another.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, names_seen, nothing_found, report_missing
from dataset_conversion.source import Origin, SourceDataset

ORIGIN = Origin(
    name="kits",
    title="KiTS19, KiTS21 or KiTS23, kidneys and their tumours on CT",
    licence="CC-BY-NC-SA 4.0",
    reference="Heller et al., The KiTS21 Challenge, arXiv:2307.01984, 2023.",
    layout="folders case_00000/ .. with imaging.nii.gz and segmentation.nii.gz (KiTS21: aggregated_MAJ_seg.nii.gz)",
    get_it="Get it with the download scripts of https://github.com/neheller/kits19, kits21 or kits23; the scans are "
    "apart from the segmentations.",
)
CASE = r"case_\d{5}"
FOLDERS = ("", "data", "dataset", "kits21/data")  # below the three repositories


@dataclass(frozen=True)
class Year:
    """What one year has of its own.

    Attributes:
        numbers: Of the cases with a segmentation.
        label: Name of the segmentation.
        labels: Values by name; lists are regions.
        regions_class_order: As nnU-Net has it.
    """

    numbers: Sequence[int]
    label: str
    labels: dict[str, int | list[int]]
    regions_class_order: tuple[int, ...]


WITH_CYSTS: dict[str, int | list[int]] = {"kidney": [1, 2, 3], "kidney tumour or cyst": [2, 3], "kidney tumour": 2}
YEARS = {
    "19": Year(range(210), "segmentation", {"kidney": [1, 2], "kidney tumour": 2}, (1, 2)),
    "21": Year(range(300), "aggregated_MAJ_seg", WITH_CYSTS, (1, 3, 2)),
    "23": Year((*range(300), *range(400, 589)), "segmentation", WITH_CYSTS, (1, 3, 2)),
}


def find(source: Path, *, year: str | None = None) -> list[SourceDataset]:
    """Find the cases of one year.

    Args:
        source: Folder with the cases, or the repository that they were loaded into.
        year: One of `YEARS`; None recognizes it by the files.

    Raises:
        DatasetError: No case is there.
    """
    places = (source / folder for folder in FOLDERS)
    root = next((place for place in places if place.is_dir() and any(place.glob("case_*"))), None)
    if root is None:
        raise nothing_found(source, ORIGIN)
    year = year or tell_year(root)
    facts = YEARS[year]
    cases, problems = find_cases(
        root,
        images=["{case}/imaging.nii.gz"],
        label=f"{{case}}/{facts.label}.nii.gz",
        case=CASE,
        may_lack_label=year == "19",
    )
    found = names_seen((case for case in cases if case.label), problems)
    expected = [f"case_{number:05d}" for number in facts.numbers]
    return [
        SourceDataset(
            channel_names=["CT"],
            labels=facts.labels,
            regions_class_order=facts.regions_class_order,
            cases=cases,
            problems=problems + report_missing(expected, found, origin=ORIGIN),
            name=f"kits{year}",
        )
    ]


def tell_year(root: Path) -> str:
    """Tell the year by what only one of them has: votes of annotators, their instances, or cases beyond 209."""
    if any(root.glob("case_*/aggregated_MAJ_seg.nii.gz")):
        return "21"
    labeled = [path.parent.name for path in root.glob("case_*/segmentation.nii.gz")]
    has_instances = any(root.glob("case_*/instances"))
    return "23" if has_instances or any(name > "case_00209" for name in labeled) else "19"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv, add_options=_add_options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--year", choices=tuple(YEARS), help="of the challenge (default: recognized by the files)")


if __name__ == "__main__":
    sys.exit(main())
