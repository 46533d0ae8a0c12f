"""LUNA16: 888 CTs of the chest with both lungs and the trachea.

    python -m dataset_conversion.luna16 SOURCE OUT

Owns: where LUNA16 has its files, its labels, the check of sides.
Does not own: MetaImage files (`mhd_files.py`).

subset0/ to subset9/ hold a CT a series as <UID>.mhd and .raw, seg-lungs-LUNA16/ a label map of the same name as .mhd
and .zraw: 3 is the left lung, 4 the right one, 5 the trachea (as three public readers have it; the challenge's page
says that a program made them, and that they are no reference standard). Each folder may stand in one of its own name,
as archives unpack it. The nodules, which are a table of places, are not converted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import Problem, ScanFileError
from autoseg.io.byte_stream import display_name
from autoseg.io.image import Scan
from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, nothing_found, report_count
from dataset_conversion.label_grids import turned_onto
from dataset_conversion.mhd_files import read_mhd, read_mhd_labels
from dataset_conversion.source import Content, Origin, SourceCase, SourceDataset, Volume

ORIGIN = Origin(
    name="luna16",
    title="LUNA16, lungs and trachea on CT; the label maps were made by a program",
    licence="CC BY 4.0; the scans are LIDC-IDRI's, CC BY 3.0",
    reference="Setio et al., Validation, comparison, and combination of algorithms for automatic detection of "
    "pulmonary nodules in computed tomography images: the LUNA16 challenge, Medical Image Analysis 42, 2017.",
    layout="subset0/ to subset9/ and seg-lungs-LUNA16/ with <UID>.mhd files and their voxels",
    get_it="Download it from https://luna16.grand-challenge.org and unpack all.",
)
LEFT, RIGHT, TRACHEA = 3, 4, 5  # as stored
NEW_VALUES = {LEFT: 1, RIGHT: 2, TRACHEA: 3}
UID = r"[0-9]+(\.[0-9]+)+"
NUM_CASES, NUM_SUBSETS = 888, 10
IMAGES = ("subset*/{case}.mhd", "subset*/subset*/{case}.mhd")
MASKS = ("seg-lungs-LUNA16/{case}.mhd", "seg-lungs-LUNA16/seg-lungs-LUNA16/{case}.mhd")


def find(source: Path) -> list[SourceDataset]:
    """Find the cases of all subsets that are there.

    Raises:
        DatasetError: There is no subset, or no label map.
    """
    image = next((one for one in IMAGES if any(source.glob(one.format(case="*")))), None)
    mask = next((one for one in MASKS if any(source.glob(one.format(case="*")))), None)
    lacking = [name for name, there in (("subset0 .. subset9", image), ("seg-lungs-LUNA16", mask)) if there is None]
    if image is None or mask is None:
        raise nothing_found(
            source, ORIGIN, problems=[Problem(name, "is missing, or holds no .mhd file.") for name in lacking]
        )
    cases, problems = find_cases(source, images=[image], label=mask, case=UID)
    subsets = {case.images[0].parent.name for case in cases}
    unscanned = [problem for problem in problems if "subset" in problem.message and len(subsets) < NUM_SUBSETS]
    problems = [problem for problem in problems if problem not in unscanned]
    problems += report_count("subsets", expected=NUM_SUBSETS, found=len(subsets), origin=ORIGIN)
    if len(subsets) >= NUM_SUBSETS:
        problems += report_count("cases", expected=NUM_CASES, found=len(cases) + len(problems), origin=ORIGIN)
    return [
        SourceDataset(
            channel_names=["CT"],
            labels={"left lung": 1, "right lung": 2, "trachea": 3},
            renumber=NEW_VALUES,
            cases=cases,
            problems=problems,
            read=read_case,
        )
    ]


def read_case(case: SourceCase) -> Content:
    """Read a CT and its label map, in the order of axes of the CT.

    Raises:
        ScanFileError: A file is damaged, or they do not fit together.
    """
    scan = read_mhd(case.images[0])
    assert case.label is not None
    stored = read_mhd_labels(case.label)
    others = sorted({int(value) for value in np.unique(stored.array_zyx)} - {0, *NEW_VALUES})
    if others:
        raise ScanFileError(
            f"{display_name(case.label)} holds {others[0]}; expected only 0, {LEFT} left lung, {RIGHT} right lung and "
            f"{TRACHEA} trachea. Download it again."
        )
    labels, note = turned_onto(stored, scan.geometry)
    placed = Scan(np.ascontiguousarray(labels), scan.geometry)
    notes = [*scan.warnings, *([note] if note else []), *_check_sides(placed)]
    return Content((Volume(scan),), Volume(placed), tuple(notes))


def _check_sides(labels: Scan) -> list[str]:
    """Return a note where the left lung does not lie to the left of the right one."""
    to_right = []
    for value in (LEFT, RIGHT):
        places = np.argwhere(labels.array_zyx == value)
        if not len(places):
            return []
        to_right.append(float((labels.geometry.affine_array @ [*places.mean(axis=0)[::-1], 1.0])[0]))
    if to_right[0] < to_right[1]:
        return []
    return ["the left lung lies to the right of the right one. Look at the case, and take it out if sides matter."]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
