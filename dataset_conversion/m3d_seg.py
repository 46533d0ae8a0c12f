"""M3D-Seg: 25 public CT datasets as arrays of numpy, each a dataset of its own.

    python -m dataset_conversion.m3d_seg SOURCE OUT [--spacing-mm X Y Z] [--axes RAS]

Owns: its layout, names of its parts, what is unknown of its images.
Does not own: numpy's files (`numpy_files.py`), voxels that two masks hold (`organ_masks.py`).

Layout, by the code of its authors (github.com/BAAI-DCAI/M3D, Data/process/m3d_seg_data_preprocess.py and
m3d_seg_data_prepare.py): <code>/<code>.json has `labels` {"0": "background", "1": name, ..} and the lists `train` and
`test` of {"image": "<code>/<case>/image.npy", "label": "<code>/<case>/mask_(C, X, Y, Z).npz"}. The image is float,
(1, X, Y, Z), in the order of axes of the NIfTI file that it came from; the mask is a sparse matrix (CSR of SciPy) of C
rows, one a label, each X * Y * Z long. SOURCE is the folder of all codes or of one.

What the files do not have: Hounsfield units (each image was clipped and brought to mean 0 and deviation 1), the size of
a voxel, and where left, front and up are; both differ from part to part (issue 51 there). They are taken from
--spacing-mm and --axes. Where a part can be had from its own makers, that is the better source.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from autoseg.errors import Problem, ScanFileError, UsageError, printable
from autoseg.io.byte_stream import display_name
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from autoseg.io.voxels import replace_not_finite
from autoseg.system.atomic_files import read_json
from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import nothing_found
from dataset_conversion.numpy_files import read_npy, read_npz
from dataset_conversion.organ_masks import describe_overlaps, merge_masks
from dataset_conversion.source import Content, Origin, SourceCase, SourceDataset, Volume

ORIGIN = Origin(
    name="m3d_seg",
    title="M3D-Seg, organs on CT from 25 public datasets, without units, sizes and directions",
    licence="Apache-2.0 by its card; that of each part besides",
    reference="Bai et al., M3D: Advancing 3D medical image analysis with multi-modal large language models, 2024, "
    "arXiv 2404.00578.",
    layout="0000/0000.json and 0000/<case>/image.npy and mask_(..).npz, and so on up to 0024; or one of these folders",
    get_it="Download it from https://huggingface.co/datasets/GoodBaiBai88/M3D-Seg and unpack the archives.",
)
PARTS = (
    *("CHAOS", "HaN-Seg", "AMOS22", "AbdomenCT-1K", "KiTS23", "KiPA22", "KiTS19", "BTCV", "Pancreas-CT"),
    *("3D-IRCADB", "FLARE22", "TotalSegmentator", "CT-ORG", "WORD", "VerSe19", "VerSe20", "SLIVER07", "QUBIQ"),
    *("MSD-Colon", "MSD-HepaticVessel", "MSD-Liver", "MSD-Lung", "MSD-Pancreas", "MSD-Spleen", "LUNA16"),
)
CODE = re.compile(r"\d{4}")
CHANNEL = "standardised"  # no name of a CT: that promises Hounsfield units
DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}  # axis of RAS, sign
BYTES_A_VOXEL = 32  # that the mask of an image may have unpacked; an entry takes 12 or 16, most voxels have none
UNKNOWN = (
    "units, voxel sizes and directions are not in the files: images are in standard deviations, {spacing} mm and the "
    "axes {axes} are assumed. Say otherwise with --spacing-mm and --axes, or take the part from its makers."
)


def find(source: Path, *, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0), axes: str = "RAS") -> list[SourceDataset]:
    """Find the parts that are there, each a dataset.

    Args:
        source: Folder of all codes, or of one.
        spacing_mm: Size of a voxel along the axes as they are stored.
        axes: Where each of these axes goes, such as "LPS".

    Raises:
        DatasetError: There is no part.
        UsageError: An option or a list of cases makes no sense.
    """
    affine = make_affine(spacing_mm, axes)
    folders = [one for one in (source, *sorted(source.iterdir())) if _list_path(one).is_file()]
    if not folders:
        raise nothing_found(source, ORIGIN, problems=[Problem("0000/0000.json", "and its like are missing.")])
    assumed = UNKNOWN.format(spacing=" x ".join(f"{size:g}" for size in spacing_mm), axes=axes)
    return [_find_part(folder, affine=affine, assumed=assumed, is_alone=len(folders) == 1) for folder in folders]


def read_case(case: SourceCase, *, names: Mapping[int, str], affine: np.ndarray) -> Content:
    """Read an image, and make a label map of its masks.

    Args:
        case: Its image is image.npy, its label the archive of masks.
        names: Of the label values; mask k is of the value k + 1.
        affine: 4x4, takes the index of a voxel to millimeters.

    Raises:
        ScanFileError: A file is damaged, or both do not fit together.
    """
    path = case.images[0]
    image = read_npy(path)
    if image.ndim != 4 or len(image) != 1 or not image.size:
        raise ScanFileError(
            f"{display_name(path)} has the shape {image.shape}; expected (1, x, y, z). Download it again."
        )
    array, warnings = replace_not_finite(image[0].transpose(2, 1, 0).astype(np.float32), name=display_name(path))
    geometry = ImageGeometry.from_affine(array.shape, affine)
    assert case.label is not None
    masks = _read_masks(case.label, shape_xyz=image.shape[1:], num_labels=len(names))
    merged = merge_masks(masks, shape_zyx=array.shape, highest=len(names))
    labels = Volume(Scan(merged.labels_zyx, geometry))
    return Content((Volume(Scan(array, geometry)),), labels, (*warnings, *describe_overlaps(merged.overlaps, names)))


def make_affine(spacing_mm: Sequence[float], axes: str) -> np.ndarray:
    """Make the 4x4 matrix that takes an index to RAS+ millimeters, of sizes and directions of the axes.

    Raises:
        UsageError: A size is not positive, or the directions are not three that span space.
    """
    places = [DIRECTIONS.get(letter) for letter in axes.upper()]
    if sorted(place[0] for place in places if place) != [0, 1, 2] or len(axes) != 3:
        raise UsageError(f"--axes {axes!r:.20}: expected one of R and L, one of A and P, one of S and I, such as LPS.")
    if len(spacing_mm) != 3 or not all(0 < size < 1000 for size in spacing_mm):
        raise UsageError(f"--spacing-mm {list(spacing_mm)}: expected three sizes above 0.")
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (place, size) in enumerate(zip(places, spacing_mm, strict=True)):
        assert place is not None
        affine[place[0], column] = place[1] * size
    return affine


def _read_masks(path: Path, *, shape_xyz: tuple[int, ...], num_labels: int) -> Iterator[tuple[int, np.ndarray]]:
    """Return value and mask (zyx) of each label that has voxels, one at a time."""
    name, num_voxels = display_name(path), int(np.prod(shape_xyz))
    parts = read_npz(path, ("indices", "indptr", "data", "shape"), most_bytes=BYTES_A_VOXEL * num_voxels + 4096)
    expected = (num_labels, num_voxels)
    if tuple(parts["shape"].tolist()) != expected:
        raise ScanFileError(
            f"{name} is for {parts['shape'].tolist()} labels and voxels; expected {list(expected)}, as its list of "
            "labels and its image have. Download the case again."
        )
    ends, indices, data = parts["indptr"], parts["indices"], parts["data"]
    fits = len(ends) == num_labels + 1 and len(indices) == len(data) == ends[-1] and ends[0] == 0
    if not fits or (np.diff(ends) < 0).any() or (len(indices) and not 0 <= indices.min() <= indices.max() < num_voxels):
        raise ScanFileError(f"{name} holds a matrix that contradicts itself. Download the case again.")
    for row in range(num_labels):
        inside = indices[ends[row] : ends[row + 1]][data[ends[row] : ends[row + 1]] != 0]
        if len(inside):
            mask = np.zeros(num_voxels, dtype=bool)
            mask[inside] = True
            yield row + 1, mask.reshape(shape_xyz).transpose(2, 1, 0)


def _find_part(folder: Path, *, affine: np.ndarray, assumed: str, is_alone: bool) -> SourceDataset:
    """Find the cases that a part's list names."""
    code = folder.resolve().name
    listed = read_json(_list_path(folder))
    names = _label_names(listed, folder)
    problems = [Problem("", assumed, is_error=False)]
    cases: list[SourceCase] = []
    for held_out, key in ((False, "train"), (True, "test")):
        for name in _case_names(listed.get(key), folder):
            case_id = re.sub(r"[^\w.-]+", "_", f"m3d_{code}_{name}")
            image, masks = folder / name / "image.npy", sorted((folder / name).glob("mask_*.npz"))
            if image.is_file() and len(masks) == 1:
                cases.append(SourceCase(case_id, (image,), masks[0], held_out=held_out))
            else:
                problems.append(Problem(case_id, f"{code}/{name} lacks image.npy or its one mask. Unpack it again."))
    part = PARTS[int(code)] if int(code) < len(PARTS) else code
    return SourceDataset(
        channel_names=[CHANNEL],
        labels={name: value for value, name in names.items()},
        cases=cases,
        problems=problems,
        read=partial(read_case, names=names, affine=affine),
        folder="" if is_alone else f"{code}_{part}",
        name=f"m3d_seg_{code}_{part}",
        settings={"affine": affine.tolist()},
        more={"assumed": assumed},
    )


def _list_path(folder: Path) -> Path:
    """Return the list of cases of a part; of a folder that is none, a path that is not there."""
    name = folder.resolve().name
    return folder / (f"{name}.json" if CODE.fullmatch(name) else "no part")


def _label_names(listed: Any, folder: Path) -> dict[int, str]:
    """Read the names of the labels 1, 2, ..; of those that stand there twice, the later ones get their number."""
    content: dict[str, Any] = listed if isinstance(listed, dict) else {}
    labels: dict[str, Any] = content["labels"] if isinstance(content.get("labels"), dict) else {}
    values = [str(value) for value in range(1, len(labels))]
    if not values or not all(isinstance(labels.get(value), str) for value in values):
        raise UsageError(
            f'{display_name(_list_path(folder))}: expected labels such as {{"0": "background", "1": "liver"}}. '
            "Download it again."
        )
    names: dict[int, str] = {}
    seen: Counter[str] = Counter()
    for value in values:
        name = labels[value].strip()
        names[int(value)] = f"{name} ({value})" if seen[name.casefold()] else name
        seen[name.casefold()] += 1
    return names


def _case_names(entries: Any, folder: Path) -> list[str]:
    """Return the folders of the cases that a list names; of a path only the folder right above the file counts."""
    names = []
    for entry in entries if isinstance(entries, list) else []:
        image = entry.get("image") if isinstance(entry, dict) else None
        parts = PurePosixPath(image.replace("\\", "/")).parts if isinstance(image, str) else ()
        if len(parts) < 2 or parts[-2] in ("..", "/"):
            raise UsageError(
                f"{display_name(_list_path(folder))}: {printable(str(entry))[:80]} names no case. Mend it."
            )
        names.append(parts[-2])
    return names


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spacing-mm",
        nargs=3,
        type=float,
        default=[1.0, 1.0, 1.0],
        metavar=("X", "Y", "Z"),
        help="size of a voxel along the stored axes, which the source does not contain (default: 1 1 1)",
    )
    parser.add_argument("--axes", default="RAS", help="where the stored axes go, such as LPS (default: RAS)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv, add_options=_add_options)


if __name__ == "__main__":
    sys.exit(main())
