"""CHAOS: healthy abdominal organs, 40 CTs with the liver and 40 MRIs (three sequences) with four organs.

    python -m dataset_conversion.chaos SOURCE OUT

Owns: where CHAOS has its files, which picture belongs to which slice, what grey values mean.
Does not own: DICOM slices (`autoseg.io.dicom`), pictures (`png_slices.py`).

    Train_Sets/CT/<n>/DICOM_anon/*.dcm                            Train_Sets/CT/<n>/Ground/liver_GT_000.png ..
    Train_Sets/MR/<n>/T1DUAL/DICOM_anon/{InPhase,OutPhase}/*.dcm  Train_Sets/MR/<n>/T1DUAL/Ground/IMG-0004-00002.png ..
    Train_Sets/MR/<n>/T2SPIR/DICOM_anon/*.dcm                     Train_Sets/MR/<n>/T2SPIR/Ground/*.png

Test_Sets has the same without Ground. CT and MR become two datasets, since CT has the liver alone. Both phases of
T1DUAL were taken at once and share one label map; each is a case of its own. Files of MR have a series each.

The pictures follow the names of the DICOM files, not the places of the slices: on CT they run from the head down,
against the order in which readers of DICOM stack slices (three public readers turn them round; others pair
i0000,0000b.dcm with liver_GT_000.png). So the k-th picture belongs to the k-th file by the numbers in its name, and its
slice lies where that file says. A case whose liver would be more even in the opposite order is reported.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from autoseg.errors import Problem, ScanFileError
from autoseg.io.byte_stream import display_name
from autoseg.io.dicom import is_dicom, read_slices
from autoseg.io.image import Scan
from dataset_conversion.conversion import run_conversion
from dataset_conversion.dicom_objects import read_header, sort_slices
from dataset_conversion.finding import nothing_found, report_count
from dataset_conversion.png_slices import by_numbers, read_pngs
from dataset_conversion.source import Content, Origin, SourceCase, SourceDataset, Volume, numbered

ORIGIN = Origin(
    name="chaos",
    title="CHAOS, healthy abdominal organs on CT and MRI",
    licence="CC BY-NC-SA 4.0",
    reference="Kavur et al., CHAOS Challenge - combined (CT-MR) healthy abdominal organ segmentation, Medical Image "
    "Analysis 69, 2021.",
    layout="Train_Sets/CT, Train_Sets/MR, or one of them, and Test_Sets where it is wanted",
    get_it="Download it from https://chaos.grand-challenge.org or Zenodo (10.5281/zenodo.3431873) and unpack it.",
)
NUM_CASES = 20  # of CT, and of MR, in each of the sets
SEQUENCES = {
    "CT": {"": ("DICOM_anon", "Ground")},
    "MR": {
        "_t1_in": ("T1DUAL/DICOM_anon/InPhase", "T1DUAL/Ground"),
        "_t1_out": ("T1DUAL/DICOM_anon/OutPhase", "T1DUAL/Ground"),
        "_t2": ("T2SPIR/DICOM_anon", "T2SPIR/Ground"),
    },
}
LABELS = {"CT": numbered(("liver",)), "MR": numbered(("liver", "right kidney", "left kidney", "spleen"))}
GREYS = {  # lowest and highest grey of each label; 63, 126, 189 and 252 on MR
    "CT": {1: (1, 255)},
    "MR": {1: (56, 70), 2: (111, 135), 3: (176, 200), 4: (241, 255)},
}
MOST_ODD_SHARE = 0.01  # of the labeled pixels, whose grey stands for no organ
MUCH_MORE_EVEN = 0.5  # ratio of the spreads, below which the opposite order of slices is suspected


def find(source: Path) -> list[SourceDataset]:
    """Find the cases of CT and of MR.

    Raises:
        DatasetError: There is neither.
    """
    train, test = (_find_set(source, name) for name in ("Train_Sets", "Test_Sets"))
    train = train or source
    datasets = []
    for kind in SEQUENCES:
        if (train / kind).is_dir():
            datasets.append((kind, *_find_kind(train / kind, test / kind if test else None, kind=kind)))
    if not datasets:
        faults = [Problem(f"Train_Sets/{kind}", "is missing.") for kind in SEQUENCES]
        raise nothing_found(source, ORIGIN, problems=faults)
    return [
        SourceDataset(
            channel_names=["CT" if kind == "CT" else "MRI"],
            labels=LABELS[kind],
            cases=cases,
            problems=problems,
            read=partial(read_case, greys=GREYS[kind]),
            folder=kind.lower() if len(datasets) > 1 else "",
            name=f"chaos_{kind.lower()}",
        )
        for kind, cases, problems in datasets
    ]


def read_case(case: SourceCase, *, greys: Mapping[int, tuple[int, int]]) -> Content:
    """Read the slices of a scan and, where it has some, the pictures of its labels.

    Args:
        case: Its image is a folder of slices, its label a folder of pictures.
        greys: Lowest and highest grey by label value.

    Raises:
        ScanFileError: A file is damaged, or there are other numbers of slices and pictures.
    """
    files = sorted((path for path in case.images[0].iterdir() if is_dicom(path)), key=by_numbers)
    headers = sort_slices([read_header(path) for path in files])
    scan, _ = read_slices([header.path for header in headers])
    if case.label is None:
        return Content((Volume(scan),), None)
    pictures = sorted(case.label.glob("*.png"), key=by_numbers)
    _check_pairs(files, pictures, folder=case.label)
    picture_of = dict(zip(files, pictures, strict=True))
    in_place = [picture_of[header.path] for header in headers]
    grey = read_pngs(in_place, shape_yx=(scan.array_zyx.shape[1], scan.array_zyx.shape[2]))
    labels, notes = _label(grey, greys, folder=case.label)
    notes += _compare_orders(scan.array_zyx, labels)
    return Content((Volume(scan),), Volume(Scan(labels, scan.geometry)), (*scan.warnings, *notes))


def _check_pairs(files: Sequence[Path], pictures: Sequence[Path], *, folder: Path) -> None:
    """Refuse pictures of which one would come to a slice of another name or to none."""
    if len(files) != len(pictures):
        raise ScanFileError(
            f"{display_name(folder)} holds {len(pictures)} pictures for {len(files)} slices. Download the case again."
        )
    if {path.stem for path in files} & {path.stem for path in pictures}:  # as on MR, where they have the same names
        for file, picture in zip(files, pictures, strict=True):
            if file.stem != picture.stem:
                raise ScanFileError(f"{display_name(picture)} has no slice of its name. Download the case again.")


def _label(grey: np.ndarray, greys: Mapping[int, tuple[int, int]], *, folder: Path) -> tuple[np.ndarray, list[str]]:
    """Turn grey values into label values; few that stand for no organ are background, and reported."""
    values = np.full(256, len(greys) + 1, np.uint8)  # one too many marks a grey that means nothing
    values[0] = 0
    for value, (lowest, highest) in greys.items():
        values[lowest : highest + 1] = value
    labels = values[grey]
    wrong = labels > len(greys)
    num_wrong, num_labeled = np.count_nonzero(wrong), np.count_nonzero(labels)
    if num_wrong > MOST_ODD_SHARE * num_labeled:
        raise ScanFileError(
            f"{display_name(folder)}: {num_wrong} of {num_labeled} pixels have a grey that stands for no organ, such "
            f"as {grey[wrong][0]}. Download the case again."
        )
    labels[wrong] = 0
    return labels, [f"{num_wrong} pixels of a grey that stands for no organ are background."] if num_wrong else []


def _compare_orders(image: np.ndarray, labels: np.ndarray) -> list[str]:
    """Return a note if reversing the slices makes the image far more even inside of the first organ."""
    inside, inside_opposite = image[labels == 1], image[labels[::-1] == 1]
    if not len(inside):
        return []
    spread, opposite = (float(np.median(np.abs(one - np.median(one)))) for one in (inside, inside_opposite))
    if opposite >= MUCH_MORE_EVEN * spread:
        return []
    return [
        f"its labels would fit better in the opposite order of slices (a spread of {opposite:.3g} in place of "
        f"{spread:.3g} inside the liver). Look at the case in a viewer, and take it out if it does not fit."
    ]


def _find_set(source: Path, name: str) -> Path | None:
    places = (source / name, source / f"CHAOS_{name}" / name, source / f"CHAOS_{name}")
    return next((place for place in places if place.is_dir()), None)


def _find_kind(train: Path, test: Path | None, *, kind: str) -> tuple[list[SourceCase], list[Problem]]:
    """Find the cases of CT or of MR, in both sets."""
    cases: list[SourceCase] = []
    problems: list[Problem] = []
    for folder in (train, test):
        patients = _patients(folder)
        for patient in patients:
            for suffix, (images, ground) in SEQUENCES[kind].items():
                name = f"{kind.lower()}_{patient.name}{suffix}"
                place, label = patient / images, patient / ground if folder is train else None
                if not any(map(is_dicom, place.glob("*"))):
                    problems.append(Problem(name, f"{images} holds no DICOM file. Download it again."))
                elif label is not None and not any(label.glob("*.png")):
                    problems.append(Problem(name, f"{ground} holds no PNG picture. Download it again."))
                else:
                    cases.append(SourceCase(name, (place,), label, patient=f"{kind.lower()}_{patient.name}"))
        if folder is not None:
            what = f"patients of {folder.parent.name}/{kind}"
            problems += report_count(what, expected=NUM_CASES, found=len(patients), origin=ORIGIN)
    return cases, problems


def _patients(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    return sorted((one for one in folder.iterdir() if one.is_dir() and re.fullmatch(r"\d+", one.name)), key=by_numbers)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv)


if __name__ == "__main__":
    sys.exit(main())
