"""TotalSegmentator's published datasets: CT with 117 structures, MRI with 50.

    python -m dataset_conversion.totalsegmentator SOURCE OUT

Owns: the classes of both, their split.
Does not own: reading masks (`organ_files.py`).

Layout, as its authors' own conversion reads it (resources/convert_dataset_to_nnunet.py) and nnU-Net's for the MRI
(Dataset227): s<four digits>/ct.nii.gz or mri.nii.gz, s<four digits>/segmentations/<class>.nii.gz, a mask each, and
meta.csv, parted by semicolons, with the columns image_id and split (train, val, test). Values follow the authors'
class_map `total` and `total_mr`. Scans of the test split go to imagesTs and labelsTs.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from autoseg.errors import DatasetError, Problem, printable
from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, nothing_found, report_missing, require
from dataset_conversion.organ_files import list_organs, read_organ_files
from dataset_conversion.source import Origin, SourceCase, SourceDataset

ORIGIN = Origin(
    name="totalsegmentator",
    title="TotalSegmentator's dataset, 117 structures on CT or 50 on MRI",
    licence="CC BY 4.0 (CT); of MRI see the record of its version, 2.0.0 is CC BY-NC-SA 2.0",
    reference="Wasserthal et al. 2023, Radiology: AI, doi 10.1148/ryai.230024; for MRI Akinci D'Antonoli et al. 2025, "
    "Radiology, doi 10.1148/radiol.241613.",
    layout="meta.csv and s0000/, s0001/ .. with ct.nii.gz (or mri.nii.gz) and segmentations/",
    get_it="Download it from Zenodo (CT: 10.5281/zenodo.6802613, MRI: 10.5281/zenodo.11367004) and unpack it.",
)
SIDES = ("left", "right")
MOST_NAMES_SHOWN = 5


def _sided(*names: str, first: str = "left") -> list[str]:
    """Return a left and a right one of each name, in the order in which the class maps have them."""
    order = SIDES if first == "left" else SIDES[::-1]
    return [f"{name}_{side}" for name in names for side in order]


ABDOMEN = ["spleen", *_sided("kidney", first="right"), "gallbladder", "liver", "stomach", "pancreas"]
ABDOMEN += _sided("adrenal_gland", first="right")
LIMBS = _sided("humerus", "scapula", "clavicula", "femur", "hip")
MUSCLES = _sided("gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas")
PELVIC_VESSELS = _sided("iliac_artery", "iliac_vena")
LOBES = ["upper_lobe_left", "lower_lobe_left", "upper_lobe_right", "middle_lobe_right", "lower_lobe_right"]
VERTEBRAE = ["S1", *(f"L{n}" for n in range(5, 0, -1)), *(f"T{n}" for n in range(12, 0, -1))]
VERTEBRAE += [f"C{n}" for n in range(7, 0, -1)]
CT_CLASSES = (
    *ABDOMEN,
    *(f"lung_{lobe}" for lobe in LOBES),
    *("esophagus", "trachea", "thyroid_gland", "small_bowel", "duodenum", "colon", "urinary_bladder", "prostate"),
    *_sided("kidney_cyst"),
    "sacrum",
    *(f"vertebrae_{level}" for level in VERTEBRAE),
    *("heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk"),
    *_sided("subclavian_artery", "common_carotid_artery", first="right"),
    *_sided("brachiocephalic_vein"),
    *("atrial_appendage_left", "superior_vena_cava", "inferior_vena_cava", "portal_vein_and_splenic_vein"),
    *PELVIC_VESSELS,
    *LIMBS,
    "spinal_cord",
    *MUSCLES,
    *("brain", "skull"),
    *(f"rib_{side}_{number}" for side in SIDES for number in range(1, 13)),
    *("sternum", "costal_cartilages"),
)
MRI_CLASSES = (
    *ABDOMEN,
    *_sided("lung"),
    *("esophagus", "small_bowel", "duodenum", "colon", "urinary_bladder", "prostate", "sacrum", "vertebrae"),
    *("intervertebral_discs", "spinal_cord", "heart", "aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein"),
    *PELVIC_VESSELS,
    *LIMBS,
    *MUSCLES,
    "brain",
)
KINDS = {"CT": ("ct.nii.gz", CT_CLASSES), "MRI": ("mri.nii.gz", MRI_CLASSES)}


def find(source: Path) -> list[SourceDataset]:
    """Find the cases of CT, of MRI, or of both, where both lie in one folder.

    Raises:
        DatasetError: meta.csv or all cases are missing.
    """
    require(source, "meta.csv", origin=ORIGIN)
    splits = read_splits(source / "meta.csv")
    datasets = [_find_kind(source, kind, splits) for kind in KINDS]
    datasets = [dataset for dataset in datasets if dataset.cases]
    if not datasets:
        raise nothing_found(source, ORIGIN)
    found = [path.parent.name for image, _ in KINDS.values() for path in source.glob(f"*/{image}")]
    missing = report_missing(splits, found, origin=ORIGIN)
    return [
        replace(
            dataset,
            problems=[*dataset.problems, *(missing if dataset is datasets[0] else [])],
            folder=dataset.name if len(datasets) > 1 else "",
        )
        for dataset in datasets
    ]


def read_splits(path: Path) -> dict[str, str]:
    """Read the split of each case.

    Raises:
        DatasetError: A column is missing, or the file is no table.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        return {row["image_id"].strip(): row["split"].strip() for row in rows}
    except (AttributeError, KeyError, UnicodeDecodeError, csv.Error):
        raise DatasetError(
            f"{printable(str(path))} is no table with the columns image_id and split, parted by semicolons. "
            f"{ORIGIN.get_it}"
        ) from None


def _find_kind(source: Path, kind: str, splits: dict[str, str]) -> SourceDataset:
    image, classes = KINDS[kind]
    is_kind = [path.parent.name for path in source.glob(f"s*/{image}")]
    cases, problems = find_cases(source, images=[f"{{case}}/{image}"], label="{case}/segmentations", case=r"s\d+")
    problems = [problem for problem in problems if problem.case_id in is_kind]
    whole: list[SourceCase] = []
    for case in cases:
        there = list_organs(case)
        lacking = [name for name in classes if name not in there]
        if lacking:
            problems.append(Problem(case.case_id, _describe(lacking)))
            continue
        whole.append(replace(case, held_out=splits.get(case.case_id) == "test"))
    unlisted = [case.case_id for case in whole if case.case_id not in splits]
    if unlisted:
        message = f"meta.csv does not name {len(unlisted)} cases, such as {unlisted[0]}: they count to the training."
        problems.append(Problem("", message, is_error=False))
    organs = {name: value for value, name in enumerate(classes, start=1)}
    return SourceDataset(
        channel_names=[kind],
        labels=organs,
        cases=whole,
        problems=problems,
        read=partial(read_organ_files, organs=organs, names={value: name for name, value in organs.items()}),
        name=f"totalsegmentator_{kind.lower()}",
    )


def _describe(lacking: Sequence[str]) -> str:
    shown = ", ".join(lacking[:MOST_NAMES_SHOWN])
    more = f" and {len(lacking) - MOST_NAMES_SHOWN} more" if len(lacking) > MOST_NAMES_SHOWN else ""
    return f"segmentations/ lacks {shown}{more}. Unpack the download again."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
