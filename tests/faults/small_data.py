"""Draws small scans with two organs, each a box, and writes them; autoseg's own writers are not used."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE_ZYX = (6, 20, 24)
ORGANS = {"background": 0, "liver": 1, "spleen": 2}


def draw_labels(liver: int = 1, spleen: int = 2, *, dtype: type = np.uint8) -> np.ndarray:
    """Draw a label map of two boxes of 192 and 126 voxels."""
    labels = np.zeros(SHAPE_ZYX, dtype)
    labels[1:4, 3:11, 3:11] = liver
    labels[2:5, 12:18, 13:20] = spleen
    return labels


def draw_image(seed: int) -> np.ndarray:
    """Draw an MRI of noise, float32, in which the liver is bright and the spleen is dark."""
    organs = draw_labels()
    noise = np.random.default_rng(seed).normal(100, 10, SHAPE_ZYX)
    return (noise + 60 * (organs == 1) - 60 * (organs == 2)).astype(np.float32)


def save(path: Path, array_zyx: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write a NIfTI file, with voxels of 1 mm unless an affine is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array_zyx).transpose(), np.eye(4) if affine is None else affine), path)
    return path


def write_dataset(root: Path, *, num_cases: int, **declared: object) -> Path:
    """Write an nnU-Net dataset of the cases `good_0`, `good_1`, ..; `declared` changes its dataset.json."""
    for number in range(num_cases):
        save(root / "imagesTr" / f"good_{number}_0000.nii.gz", draw_image(number))
        save(root / "labelsTr" / f"good_{number}.nii.gz", draw_labels())
    content = {"channel_names": {"0": "MRI"}, "labels": ORGANS, "file_ending": ".nii.gz", **declared}
    (root / "dataset.json").write_text(json.dumps(content))
    return root
