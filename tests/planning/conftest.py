"""Small datasets on disk, and fingerprints made by hand."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg.datasets.dataset import CaseFiles, Dataset
from autoseg.datasets.labels import parse_labels
from autoseg.planning.checks import DatasetCheck
from autoseg.planning.fingerprint.case_statistics import (
    CaseStatistics,
    ChannelStatistics,
    IntensityStatistics,
    OrganStatistics,
)
from autoseg.planning.fingerprint.fingerprint import Fingerprint, OrganEntry


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write an nnU-Net dataset of noisy 6 x 10 x 12 scans in which a box is the organ "liver" (1)."""

    def make(
        num_cases: int = 3,
        *,
        name: str = "data",
        channels: tuple[str, ...] = ("MRI",),
        labels: Mapping[str, int] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> Path:
        root = tmp_path / name
        for number in range(num_cases):
            rng = np.random.default_rng(number)
            label = np.zeros((6, 10, 12), dtype=np.uint8)
            label[2:5, 3:7, 3 : 7 + number % 2] = 1
            for channel in range(len(channels)):
                image = rng.normal(100, 10, label.shape).astype(np.float32) + 50 * label
                save(root / "imagesTr" / f"case_{number:03d}_{channel:04d}.nii.gz", image)
            save(root / "labelsTr" / f"case_{number:03d}.nii.gz", label)
        content = {
            "channel_names": {str(number): channel for number, channel in enumerate(channels)},
            "labels": labels or {"background": 0, "liver": 1},
            "file_ending": ".nii.gz",
            **(extra or {}),
        }
        (root / "dataset.json").write_text(json.dumps(content))
        return root

    return make


def save(path: Path, array_zyx: np.ndarray, *, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array_zyx.transpose(), np.eye(4) if affine is None else affine), path)


@pytest.fixture
def save_nifti() -> Callable[..., None]:
    return save


def intensities(low: float = -100.0, high: float = 200.0) -> IntensityStatistics:
    return IntensityStatistics(
        num_voxels=1000,
        minimum=low,
        maximum=high,
        mean=50.0,
        std=25.0,
        percentile_00_5=low + 1,
        median=50.0,
        percentile_99_5=high - 1,
    )


@pytest.fixture
def make_fingerprint_of() -> Callable[..., Fingerprint]:
    """Make the fingerprint of cases that are all alike but for their names."""

    def make(
        *,
        num_cases: int = 10,
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        size: tuple[int, int, int] = (40, 120, 100),
        organs: tuple[str, ...] = ("liver",),
        channel: str = "MRI",
        width_mm: float = 20.0,
        correlation: float = 0.9,
    ) -> Fingerprint:
        facts = [
            OrganStatistics(
                name=name,
                num_voxels=1000,
                volume_ml=1.0,
                num_components=1,
                slices_zyx=(10, 20, 20),
                slice_share_zyx=(0.25, 0.2, 0.2),
                width_zyx_mm=(width_mm, width_mm, width_mm),
            )
            for name in organs
        ]
        cases = [
            CaseStatistics(
                case_id=f"case_{number:03d}",
                patient_id=f"case_{number:03d}",
                spacing_zyx_mm=spacing,
                size_zyx=size,
                cropped_size_zyx=size,
                removed_share=0.0,
                slice_correlation_zyx=(correlation, correlation, correlation),
                channels=(ChannelStatistics(whole=intensities(), foreground=intensities()),),
                organs=tuple(facts),
                voxel_digest=f"{number}",
            )
            for number in range(num_cases)
        ]
        return Fingerprint(
            dataset_name="by hand",
            channel_names=(channel,),
            organs=tuple(OrganEntry(name=name, value=k + 1, description=None) for k, name in enumerate(organs)),
            ignore_value=None,
            foreground=(intensities(),),
            cases=tuple(cases),
        )

    return make


@pytest.fixture
def make_check(make_fingerprint_of: Callable[..., Fingerprint]) -> Callable[..., DatasetCheck]:
    """Make what reading a dataset gives: cases alike that hold all labels, of the values 1, 2, .. or as they say."""

    def make(
        labels: tuple[str, ...] | Mapping[str, object],
        *,
        channels: tuple[str, ...] = ("MRI",),
        descriptions: Mapping[str, str] | None = None,
        digest: str = "",
        **facts: object,
    ) -> DatasetCheck:
        values = labels if isinstance(labels, Mapping) else {name: k for k, name in enumerate(labels, 1)}
        label_set = parse_labels(values, descriptions, [])
        fingerprint = make_fingerprint_of(organs=tuple(organ.name for organ in label_set.organs), **facts)
        cases = tuple(
            case.model_copy(
                update={"voxel_digest": digest and f"{digest} {number}", "channels": case.channels * len(channels)}
            )
            for number, case in enumerate(fingerprint.cases)
        )
        entries = (
            OrganEntry(name=o.name, value=o.value, description=o.description, part_of=o.part_of)
            for o in label_set.organs
        )
        fingerprint = fingerprint.model_copy(
            update={
                "channel_names": channels,
                "foreground": fingerprint.foreground * len(channels),
                "organs": tuple(entries),
                "ignore_value": label_set.ignore_value,
                "cases": cases,
            }
        )
        files = tuple(CaseFiles(case.case_id, (Path("x.nii.gz"),), Path("y.nii.gz"), case.patient_id) for case in cases)
        dataset = Dataset("by hand", Path("data"), channels, label_set, files, ())
        return DatasetCheck(dataset, fingerprint, (), ())

    return make
