"""Makes phantoms: synthetic CT and MRI scans of an upper abdomen with label maps, to try autoseg without patient data.

Owns: one phantom, and a dataset of phantoms on disk. Does not own: their anatomy (`phantom_anatomy.py`) and the scanner
(`phantom_scanner.py`).

CT and MRI are in one dataset with one channel. No organ can be recognized by intensity alone: the kidneys are a pair,
spleen and liver are nearly equal on CT, the aorta is bright on CT and dark on MRI.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.demo.phantom_anatomy import PHANTOM_ORGANS, draw_anatomy, tissues_at
from autoseg.demo.phantom_scanner import Modality, draw_grid, scan, voxel_centers_mm
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import write_label_map, write_scan
from autoseg.system.atomic_files import write_json
from autoseg.system.progress import track

__all__ = ["PHANTOM_ORGANS", "PhantomCase", "make_phantom", "write_phantom_dataset"]

CHANNEL_NAME = "CT/MRI"  # not "CT": each scan is normalized by itself


@dataclass(frozen=True)
class PhantomCase:
    """One synthetic scan.

    Attributes:
        case_id: The name of the case.
        modality: "CT" or "MRI".
        image_zyx: float32; whole HU for CT, arbitrary units from 0 for MRI.
        labels_zyx: uint8; 0 or a value of `PHANTOM_ORGANS`.
        geometry: The grid, in one of several axis orders and sometimes tilted.
    """

    case_id: str
    modality: Modality
    image_zyx: np.ndarray
    labels_zyx: np.ndarray
    geometry: ImageGeometry


def make_phantom(rng: np.random.Generator, *, case_id: str, modality: Modality) -> PhantomCase:
    """Make a random phantom: about 90 x 64 pixels of 3.5 mm and 24 slices of 5 mm, in 0.2 seconds."""
    anatomy = draw_anatomy(rng)
    geometry = draw_grid(rng)
    tissues, labels = tissues_at(anatomy, voxel_centers_mm(geometry))
    tissues_zyx = tissues.reshape(geometry.shape_zyx)
    return PhantomCase(
        case_id=case_id,
        modality=modality,
        image_zyx=scan(tissues_zyx, geometry=geometry, modality=modality, rng=rng),
        labels_zyx=labels.reshape(geometry.shape_zyx),
        geometry=geometry,
    )


def write_phantom_dataset(folder: Path, *, num_train: int, num_test: int, seed: int) -> None:
    """Write `folder/dataset` (nnU-Net's layout) to train on, and `folder/unseen` to predict and compare.

    Args:
        folder: The folder, which is created if needed; files of the same names are replaced.
        num_train: The number of cases in `dataset/imagesTr` and `labelsTr`, CT and MRI in turn.
        num_test: The number of cases in `unseen/images` and `unseen/labels`.
        seed: The seed; a case depends only on it and the number of the case.
    """
    dataset, unseen = folder / "dataset", folder / "unseen"
    for number in track(range(num_train + num_test), what="phantoms", unit="case"):
        case = _numbered_phantom(number, seed=seed)
        if number < num_train:
            image = dataset / "imagesTr" / f"{case.case_id}_0000.nii.gz"
            labels = dataset / "labelsTr" / f"{case.case_id}.nii.gz"
        else:
            image = unseen / "images" / f"{case.case_id}.nii.gz"
            labels = unseen / "labels" / f"{case.case_id}.nii.gz"
        write_scan(image, stored_array(case), geometry=case.geometry)
        names = {value: name for name, value in PHANTOM_ORGANS.items()}
        write_label_map(labels, case.labels_zyx, geometry=case.geometry, names=names)
    write_json(
        dataset / "dataset.json",
        {
            "name": "phantoms",
            "description": "Synthetic CT and MRI of the upper abdomen; no patient was scanned.",
            "channel_names": {"0": CHANNEL_NAME},
            "labels": {"background": 0, **PHANTOM_ORGANS},
            "numTraining": num_train,
            "file_ending": ".nii.gz",
        },
    )


def stored_array(case: PhantomCase) -> np.ndarray:
    """Return the image as a scanner would store it: int16 for CT, float32 for MRI."""
    return case.image_zyx.astype(np.int16) if case.modality == "CT" else case.image_zyx


def _numbered_phantom(number: int, *, seed: int) -> PhantomCase:
    modality: Modality = "CT" if number % 2 == 0 else "MRI"
    rng = np.random.default_rng([seed, number])
    return make_phantom(rng, case_id=f"{modality.lower()}_{number + 1:03d}", modality=modality)
