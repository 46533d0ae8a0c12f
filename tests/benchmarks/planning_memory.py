"""Memory per voxel of measuring and preprocessing one case: the figures in `autoseg/planning/memory_and_disk.py`.

    python tests/benchmarks/planning_memory.py

Each case is noise with two boxes for organs, on a grid of 128 x 320 x 320 voxels; each step runs in a process of its
own, and what its memory grew by at most is divided by the voxels of all channels of the file.
"""

import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from autoseg.config.plans import ChannelPlan, DataPlan, OrganPlan
from autoseg.datasets.dataset import read_dataset
from autoseg.pipelines.preprocess import preprocess_dataset
from autoseg.planning.fingerprint.measure_case import scan_case

SHAPE_ZYX = (128, 320, 320)
AFFINE = np.diag([0.8, 0.8, 1.5, 1.0])
ORGANS = ("liver", "spleen")
CASES = [
    ("int16", 1, ".nii"),
    ("float32", 1, ".nii"),
    ("float64", 1, ".nii"),
    ("int16", 3, ".nii"),
    ("int16", 1, ".nii.gz"),
]


def write_dataset(root: Path, dtype: str, *, num_channels: int, ending: str) -> None:
    """Write a dataset of one case."""
    labels = np.zeros(SHAPE_ZYX, np.uint8)
    labels[20:60, 50:250, 50:250], labels[80:100, 50:300, 60:300] = 1, 2
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    nib.save(nib.Nifti1Image(labels.transpose(), AFFINE), root / "labelsTr" / f"a{ending}")
    for channel in range(num_channels):
        image = np.random.default_rng(channel).normal(50, 300, SHAPE_ZYX).astype(dtype)
        nib.save(nib.Nifti1Image(image.transpose(), AFFINE), root / "imagesTr" / f"a_{channel:04d}{ending}")
    names = {str(channel): f"MRI {channel}" for channel in range(num_channels)}
    values = {"background": 0, **{name: value for value, name in enumerate(ORGANS, start=1)}}
    (root / "dataset.json").write_text(json.dumps({"channel_names": names, "labels": values, "file_ending": ending}))


def peak_bytes(work: Callable[[], object]) -> int:
    """Return by how much the memory of a process grew that does the work."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        os.write(writer, str(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        os.wait()
        return int(answer.read())


def main() -> None:
    """Print a line a kind of case."""
    for dtype, num_channels, ending in CASES:
        root = Path(tempfile.mkdtemp())
        write_dataset(root / "data", dtype, num_channels=num_channels, ending=ending)
        dataset = read_dataset(root / "data")
        voxels = num_channels * int(np.prod(SHAPE_ZYX))
        line = [f"{dtype:8} x {num_channels} {ending:7}"]
        line.append(f"measured {peak_bytes(partial(scan_case, dataset.cases[0], dataset=dataset)) / voxels:5.1f}")
        for fraction, spacing in ((1.0, (1.5, 0.8, 0.8)), (0.25, (3.0, 1.13137, 1.13137))):
            plan = DataPlan(
                channels=tuple(ChannelPlan(name=f"MRI {c}", normalization="zscore") for c in range(num_channels)),
                organs=tuple(OrganPlan(name=name, value=v, sentences=("x",)) for v, name in enumerate(ORGANS, start=1)),
                target_spacing_zyx_mm=spacing,
                slice_axis="z",
            )
            work = partial(
                preprocess_dataset, dataset.cases, plan=plan, store_folder=root / f"store {fraction}", num_workers=0
            )
            line.append(f"preprocessed to {fraction:.0%} of the voxels {peak_bytes(work) / voxels:5.1f}")
        print(", ".join(line), "bytes a voxel", flush=True)
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
