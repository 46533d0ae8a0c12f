"""Draws the demo's pictures: each unseen scan with its prediction and the reference, and one of a CT and an MRI.

Owns: `draw_pictures`. Does not own: the drawing of an overlay (`overlay.py`).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from skimage import io as pixels

from autoseg.demo.overlay import save_overlay
from autoseg.io.geometry import canonical_axis_map, reorient
from autoseg.io.image import read_labels, read_scan, scan_stem
from autoseg.system.atomic_files import atomic_path

OVERVIEW = "overview.png"
SLICES_IN_OVERVIEW = 2


def draw_pictures(
    scans: Iterable[Path], *, predictions: Path, references: Path, output: Path, names: Mapping[int, str]
) -> tuple[Path, ...]:
    """Draw every scan, and the first of each modality once more into `overview.png`.

    Args:
        scans: Image files of one channel, named `<modality>_<number>.nii.gz`.
        predictions: Folder of the label maps of the same names.
        references: Folder of the true ones.
        output: Folder for `<case>.png` and `overview.png`.
        names: Name by label value.

    Returns:
        The files, the overview last.
    """
    drawn: list[Path] = []
    rows: dict[str, Path] = {}
    for scan in scans:
        name = scan_stem(scan)
        drawn.append(output / f"{name}.png")
        maps = (predictions / f"{name}.nii.gz", references / f"{name}.nii.gz")
        _draw_case(drawn[-1], scan, maps, names=names, num_slices=3)
        modality = name.partition("_")[0]
        if modality not in rows:
            rows[modality] = output / f".{modality}.png"
            _draw_case(rows[modality], scan, maps, names=names, num_slices=SLICES_IN_OVERVIEW)
    _stack(list(rows.values()), output / OVERVIEW)
    for row in rows.values():
        row.unlink()
    return (*drawn, output / OVERVIEW)


def _draw_case(
    picture: Path, scan_path: Path, maps: tuple[Path, Path], *, names: Mapping[int, str], num_slices: int
) -> None:
    scan = read_scan(scan_path)
    axis_map = canonical_axis_map(scan.geometry)
    prediction, reference = (axis_map.apply(read_labels(path).array_zyx) for path in maps)
    save_overlay(
        picture,
        axis_map.apply(scan.array_zyx),
        prediction_zyx=prediction,
        reference_zyx=reference,
        names=names,
        spacing_zyx_mm=reorient(scan.geometry, axis_map).spacing_zyx_mm,
        num_slices=num_slices,
    )


def _stack(pictures: list[Path], path: Path) -> None:
    """Put pictures below each other, the narrower ones filled with white at the right."""
    arrays = [pixels.imread(picture)[..., :3] for picture in pictures]  # (rows, columns, RGB)
    width = max(array.shape[1] for array in arrays)
    padded = [np.pad(a, ((0, 0), (0, width - a.shape[1]), (0, 0)), constant_values=255) for a in arrays]
    with atomic_path(path) as temporary:
        pixels.imsave(temporary, np.concatenate(padded), check_contrast=False)
