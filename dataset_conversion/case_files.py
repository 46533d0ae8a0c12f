"""One case from the source's files to the dataset's.

Owns: `read_files`, the checks of what was read, `write_case`.
Does not own: scan files themselves (`autoseg.io.image`, `autoseg.io.dicom`), which cases there are (`finding.py`).

A file is read whole before it is linked, so that a damaged one never becomes part of a dataset.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoseg.errors import AutosegError, OutputError, ScanFileError
from autoseg.io.byte_stream import display_name
from autoseg.io.geometry import ImageGeometry, canonical_axis_map, grids_differ, reorient
from autoseg.io.image import Scan, read_all_volumes, read_labels, write_label_map, write_scan
from autoseg.system.atomic_files import explain_write_error, find_disk_fault
from dataset_conversion.links import link_or_copy
from dataset_conversion.source import Content, SourceCase, SourceDataset, Volume

ENDING = ".nii.gz"
MOST_VALUES_SHOWN = 8


@dataclass(frozen=True)
class WrittenCase:
    """The result of converting a case.

    Attributes:
        values: That its label map holds, without 0.
        num_links: Of its files, those that are hard links.
        notes: Warnings about the case.
    """

    values: tuple[int, ...]
    num_links: int
    notes: tuple[str, ...] = ()


def target_names(case: SourceCase, *, num_channels: int) -> list[str]:
    """Return the files that a case becomes, below the dataset's folder."""
    part = "Tr" if case.is_training else "Ts"
    names = [f"images{part}/{case.case_id}_{channel:04d}{ENDING}" for channel in range(num_channels)]
    return names if case.label is None else [*names, f"labels{part}/{case.case_id}{ENDING}"]


def read_files(case: SourceCase) -> Content:
    """Read scan files, 4D files and DICOM series, and a label map that is one file.

    A DICOM series is put into the order of axes that its label map has.

    Raises:
        ScanFileError: A file is damaged.
    """
    labels = Volume(read_labels(case.label), case.label) if case.label is not None else None
    grid = labels.scan.geometry if labels is not None else None
    channels = [volume for path in case.images for volume in read_image(path, grid=grid)]
    return Content(tuple(channels), labels)


def read_image(path: Path, *, grid: ImageGeometry | None = None) -> list[Volume]:
    """Read all volumes of a scan file, or a folder with one DICOM series.

    Args:
        path: The file or folder.
        grid: A DICOM series is put into its order of axes.

    Raises:
        ScanFileError: It is damaged, or a series lies on another grid.
    """
    if not path.is_dir():
        scans = read_all_volumes(path)
        return [Volume(scan, path if len(scans) == 1 else None) for scan in scans]
    from autoseg.io.dicom import read_series  # SimpleITK loads only for DICOM

    scan, _ = read_series(path)
    return [Volume(scan if grid is None else put_on_grid(scan, grid))]


def put_on_grid(scan: Scan, grid: ImageGeometry) -> Scan:
    """Return a scan in the axis order and directions of a grid that holds the same points.

    Raises:
        ScanFileError: The grids differ by more than the order and direction of their axes.
    """
    own, other = canonical_axis_map(scan.geometry), canonical_axis_map(grid)
    difference = grids_differ(reorient(scan.geometry, own), reorient(grid, other))
    if difference is not None:
        raise ScanFileError(difference)
    return Scan(other.undo(own.apply(scan.array_zyx)), grid, scan.warnings)


def convert_case(case: SourceCase, *, dataset: SourceDataset, out: Path) -> WrittenCase:
    """Read, check and write one case; the label map comes last.

    Raises:
        ScanFileError: A file is damaged, or is not what the source should hold.
        OutputError: The disk is full or broken.
    """
    names = target_names(case, num_channels=len(dataset.channel_names))
    content = (dataset.read or read_files)(case)
    _check_channels(case, content, dataset.channel_names)
    labels = _renumber(content.labels, dataset) if content.labels is not None else None
    values = _check_labels(labels.scan, case, dataset) if labels is not None else ()
    volumes = [*content.channels, *([labels] if labels is not None else [])]
    try:
        links = [
            _write(volume, out / name, dataset=dataset, is_labels=volume is labels)
            for volume, name in zip(volumes, names, strict=True)
        ]
    except (AutosegError, OSError) as error:
        for name in names:
            (out / name).unlink(missing_ok=True)
        fault = find_disk_fault(error)
        if fault is not None:
            raise OutputError(explain_write_error(fault, out)) from error
        raise
    return WrittenCase(values, sum(links), content.notes)


def _write(volume: Volume, path: Path, *, dataset: SourceDataset, is_labels: bool) -> bool:
    """Link or write a file; say whether it is a link."""
    if volume.file is not None and volume.file.name.lower().endswith(ENDING):
        return link_or_copy(volume.file, path)
    if is_labels:
        write_label_map(path, volume.scan.array_zyx, geometry=volume.scan.geometry, names=dataset.values)
    else:
        write_scan(path, volume.scan.array_zyx, geometry=volume.scan.geometry)
    return False


def _check_channels(case: SourceCase, content: Content, names: Sequence[str]) -> None:
    if len(content.channels) != len(names):
        raise ScanFileError(
            f"{display_name(case.images[0])} and its like hold {len(content.channels)} channels; expected {len(names)} "
            f"({', '.join(names)}). Copy or download the case again."
        )
    volumes = [*zip(names, content.channels, strict=True), *([("label", content.labels)] if content.labels else [])]
    first_name, first = volumes[0]
    for name, volume in volumes[1:]:
        difference = grids_differ(first.scan.geometry, volume.scan.geometry, names=(first_name, name))
        if difference is not None:
            raise ScanFileError(difference)


def _renumber(labels: Volume, dataset: SourceDataset) -> Volume:
    """Return the label map its new values; what none of them changes can stay the file it is."""
    array = labels.scan.array_zyx
    changes = {old: new for old, new in dataset.renumber.items() if old != new and (array == old).any()}
    if not changes:
        return labels
    renumbered = array.astype(np.int32)
    for old, new in changes.items():
        renumbered[array == old] = new
    return Volume(replace(labels.scan, array_zyx=renumbered))


def _check_labels(scan: Scan, case: SourceCase, dataset: SourceDataset) -> tuple[int, ...]:
    """Return the values of a label map, all of which must have a name."""
    values = _values_of(scan.array_zyx)
    unknown = [value for value in values if value not in dataset.values]
    if unknown:
        assert case.label is not None
        shown = ", ".join(map(str, unknown[:MOST_VALUES_SHOWN]))
        known = ", ".join(f"{value} {name}" for value, name in dataset.values.items())
        raise ScanFileError(
            f"{display_name(case.label)} holds {shown}; expected only 0 and {known}. Check that it is the published "
            "file, or download it again."
        )
    return tuple(values)


def _values_of(labels_zyx: np.ndarray) -> list[int]:
    """List the values of a label map without 0, by size; plane by plane, since the whole would be copied."""
    if labels_zyx.dtype not in (np.uint8, np.uint16):
        return [int(value) for value in np.unique(labels_zyx) if value != 0]
    counts = np.zeros(np.iinfo(labels_zyx.dtype).max + 1, dtype=bool)
    for plane in labels_zyx:
        counts[plane.ravel()] = True
    return [int(value) for value in np.flatnonzero(counts) if value != 0]
