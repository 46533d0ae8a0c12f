"""BraTS 2020, 2021 and 2023: brain tumours on four MRI sequences.

    python -m dataset_conversion.brats SOURCE OUT

Owns: how the years name their files, and what their labels and regions are.

SOURCE is the folder of the training data, with a folder a case. 2020 and 2021 give the enhancing tumour the value 4,
which becomes the 3 that it has in 2023. The labels are written as the challenge measures them, as regions one within
the other. A patient of 2023 can have several scans, whose names end in -000, -001 ..; they share a patient.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.errors import Problem
from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import find_cases, find_paths, nothing_found, report_count, with_patient
from dataset_conversion.source import Origin, SourceCase, SourceDataset

ORIGIN = Origin(
    name="brats",
    title="BraTS 2020, 2021 or 2023, brain tumours on MRI",
    licence="terms of the BraTS challenge of the year; for research",
    reference="Baid et al., The RSNA-ASNR-MICCAI BraTS 2021 Benchmark on Brain Tumor Segmentation, arXiv:2107.02314.",
    layout="the training data, such as BraTS20_Training_001/BraTS20_Training_001_t1.nii.gz, "
    "BraTS2021_00000/BraTS2021_00000_t1.nii.gz or BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz",
    get_it="Register for the challenge at https://www.synapse.org (syn51156910 for 2023) and unpack the training data.",
)
CHANNELS = ("T1", "T1 with contrast", "T2", "FLAIR")
OLD_ENDINGS, NEW_ENDINGS = ("_t1", "_t1ce", "_t2", "_flair"), ("-t1n", "-t1c", "-t2w", "-t2f")
LABELS: dict[str, int | list[int]] = {"whole tumour": [1, 2, 3], "tumour core": [1, 3], "enhancing tumour": 3}
REGIONS_CLASS_ORDER = (2, 1, 3)  # oedema is the part of the whole tumour beyond its core
MISNAMED = ("BraTS20_Training_355", "W39_1998.09.19_Segm.nii")  # a case, and what its segmentation is called


@dataclass(frozen=True)
class Release:
    """How one release names its files.

    Attributes:
        case: Regular expression of the names of its cases.
        endings: Of the files of T1, T1 with contrast, T2 and FLAIR.
        label: Ending of the segmentation.
        num_cases: That were published.
        renumber: Values that become others.
    """

    case: str
    endings: tuple[str, ...]
    label: str
    num_cases: int
    renumber: Mapping[int, int] = field(default_factory=dict)


RELEASES = {
    "brats2020": Release(r"BraTS20_Training_\d{3}", OLD_ENDINGS, "_seg", 369, {4: 3}),
    "brats2021": Release(r"BraTS2021_\d{5}", OLD_ENDINGS, "_seg", 1251, {4: 3}),
    "brats2023_gli": Release(r"BraTS-GLI-\d{5}-\d{3}", NEW_ENDINGS, "-seg", 1251),
    "brats2023_men": Release(r"BraTS-MEN-\d{5}-\d{3}", NEW_ENDINGS, "-seg", 1000),
    "brats2023_ped": Release(r"BraTS-PED-\d{5}-\d{3}", NEW_ENDINGS, "-seg", 99),
    "brats2023_ssa": Release(r"BraTS-SSA-\d{5}-\d{3}", NEW_ENDINGS, "-seg", 60),
}


def find(source: Path) -> list[SourceDataset]:
    """Find the cases of the one release that is there.

    Raises:
        DatasetError: No release is there, or several.
    """
    names = [child.name for child in source.iterdir() if child.is_dir()]
    there = [name for name, release in RELEASES.items() if any(re.fullmatch(release.case, one) for one in names)]
    if len(there) != 1:
        inside = sorted(child for child in names if any((source / child).glob("BraTS*")))
        hint = f" Did you mean the folder {inside[0]!r} inside it?" if inside else ""
        mixture = [Problem(name, "is there, beside others. Keep one.") for name in there]
        raise nothing_found(source, ORIGIN, hint=hint, problems=mixture)
    return [find_release(source, there[0])]


def find_release(source: Path, name: str) -> SourceDataset:
    """Find the cases of a release."""
    release = RELEASES[name]
    cases, problems = find_cases(
        source,
        images=[f"{{case}}/{{case}}{ending}.nii.gz" for ending in release.endings],
        label=f"{{case}}/{{case}}{release.label}.nii.gz",
        case=release.case,
    )
    cases, problems = _add_misnamed(source, cases, problems, endings=release.endings)
    return SourceDataset(
        channel_names=CHANNELS,
        labels=LABELS,
        regions_class_order=REGIONS_CLASS_ORDER,
        renumber=release.renumber,
        cases=with_patient(cases, r"(BraTS-[A-Z]+-\d{5})-"),
        problems=problems
        + report_count("cases", expected=release.num_cases, found=len(cases) + len(problems), origin=ORIGIN),
        name=name,
    )


def _add_misnamed(
    source: Path, cases: list[SourceCase], problems: list[Problem], *, endings: Sequence[str]
) -> tuple[list[SourceCase], list[Problem]]:
    """Find the one segmentation of 2020 that was published under another name."""
    name, label = MISNAMED
    paths = [find_paths(source, f"{{case}}/{{case}}{ending}.nii.gz", case=name).get(name) for ending in endings]
    labels = find_paths(source, f"{{case}}/{label}", case=name).get(name)
    if labels is None or any(path is None for path in paths) or name in {case.case_id for case in cases}:
        return cases, problems
    case = SourceCase(name, tuple(path[0] for path in paths if path), labels[0])
    return sorted([*cases, case], key=lambda one: one.case_id), [one for one in problems if one.case_id != name]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
