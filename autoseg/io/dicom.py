"""Reads a folder of DICOM files that form one volume.

Owns: `read_series`, `read_slices`, `series_files`, `find_series`, and the checks that a series is complete. Only
voxels, geometry and modality are read, so that no text about the patient can reach an output.
Does not own: other scan files (`image.py`), the bytes of a DICOM file (`dicom_validation.py`).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from autoseg.errors import GeometryError, ScanFileError, printable
from autoseg.io.array_input import from_simpleitk
from autoseg.io.byte_stream import display_name, file_fault
from autoseg.io.dicom_validation import check_dicom_file
from autoseg.io.geometry import ImageGeometry
from autoseg.io.grid_checks import check_extent, check_shear
from autoseg.io.image import Scan
from autoseg.io.voxels import replace_not_finite
from autoseg.system.atomic_files import file_sha256

INDEX_NAME = "DICOMDIR"  # of the files on a disc
DICOM_ENDINGS = (".dcm", ".ima", ".dicom")
PREAMBLE_BYTES = 128  # before the letters DICM
MODALITY, ORIENTATION, POSITION = "0008|0060", "0020|0037", "0020|0032"
SPACING = "0028|0030"
UNEVEN_SHARE = 0.1  # of the distance between slices; scanners round positions
MOST_SIDEWAYS_MM = 0.5
TURNED = 1e-3  # a direction cosine may differ by as much within a series


def is_dicom(path: Path) -> bool:
    """Return whether a regular file begins as DICOM files do."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(PREAMBLE_BYTES + 4)[PREAMBLE_BYTES:] == b"DICM"
    except OSError:
        return False


def find_series(folder: Path) -> list[Path]:
    """Return the folder itself if it contains DICOM files, or else the folders inside it that do."""
    if _files(folder):
        return [folder]
    return [child for child in _list(folder) if child.is_dir() and _files(child)]


def series_sha256(folder: Path) -> str:
    """Return a digest of the bytes of all files of a series."""
    return hashlib.sha256("".join(file_sha256(path) for path in _files(folder)).encode()).hexdigest()


def series_files(folder: Path) -> list[Path]:
    """List the files of the only series of a folder, in the order of the slices that `read_series` returns.

    Raises:
        ScanFileError: There is not exactly one series, or there are other files.
    """
    name = display_name(folder)
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # SimpleITK ends the process over such a path
        raise ScanFileError(f"{name}: the folder's name is not UTF-8. Rename it.") from None
    for path in _list(folder):  # before SimpleITK looks at them
        fault = None if path.is_dir() else file_fault(path)
        if fault and not _was_dicom(path):
            raise ScanFileError(f"{name}: {fault} Take it out of the folder.")
        if is_dicom(path):
            check_dicom_file(path, has_picture=path.name != INDEX_NAME)
        elif _was_dicom(path):
            raise ScanFileError(
                f"{name}: {printable(path.name)} is empty, or does not begin as DICOM files do. Copy it again, or take "
                "it out of the folder."
            )
    try:
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    except RuntimeError as error:
        raise _unreadable(folder, error) from error
    if len(series) != 1:
        raise ScanFileError(
            f"{name} holds {len(series)} DICOM series; expected one. Put each series into a folder of its own."
        )
    paths = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    left_over = {path.name for path in _files(folder)} - {Path(path).name for path in paths} - {INDEX_NAME}
    if left_over:
        raise ScanFileError(
            f"{name}: {printable(min(left_over))} is damaged, or no slice ({len(left_over)} such files). Copy it "
            "again, or take it out of the folder."
        )
    return [Path(path) for path in paths]


def read_series(folder: Path) -> tuple[Scan, str]:
    """Read the one series of a folder, in Hounsfield units for CT.

    Returns:
        The scan, and its modality in small letters, such as "ct" or "mr".

    Raises:
        ScanFileError: There is not exactly one series, a file is damaged, or a slice is missing.
    """
    return read_slices(series_files(folder))


def read_slices(paths: Sequence[Path]) -> tuple[Scan, str]:
    """Read given files of a folder as one volume, in Hounsfield units for CT; other files are ignored.

    Args:
        paths: One file per slice, from one end of the volume to the other; `check_dicom_file` has accepted each.

    Returns:
        As `read_series`.

    Raises:
        ScanFileError: They form no volume, a file is damaged, or a slice is missing.
    """
    folder = paths[0].parent
    name = display_name(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(list(map(str, paths)))
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(folder, error) from error
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetDimension() != 3:
        raise ScanFileError(f"{name}: expected grey slices that make a volume.")
    if len(paths) > 1:
        _check_whole(reader, len(paths), name=name)
    array, affine = from_simpleitk(image, name=name)
    try:
        geometry = ImageGeometry.from_affine(array.shape, affine)
    except GeometryError as error:
        raise ScanFileError(f"{name}: {error}") from error
    warnings: list[str] = []
    check_extent(geometry, name=name)
    check_shear(geometry, name=name, warnings=warnings)
    if array.dtype.kind == "f":
        array, more = replace_not_finite(array.astype(np.float32, copy=False), name=name)
        warnings += more
    return Scan(array, geometry, tuple(warnings)), _tag(reader, 0, MODALITY).lower()


def _unreadable(folder: Path, error: RuntimeError) -> ScanFileError:
    """Explain an error of SimpleITK, which has one class for all of them, without the path of the folder."""
    name = display_name(folder)
    reason = printable(str(error).strip().splitlines()[-1].replace(str(folder), name))
    return ScanFileError(f"{name}: the DICOM series cannot be read: {reason}. Export it again.")


def _check_whole(reader: sitk.ImageSeriesReader, num_files: int, *, name: str) -> None:
    """Refuse slices that are not parallel or not equally spaced."""
    try:
        turns = np.array([_numbers(_tag(reader, index, ORIENTATION)) for index in range(num_files)])
        places = np.array([_numbers(_tag(reader, index, POSITION)) for index in range(num_files)])
    except ValueError:
        turns = places = np.zeros(0)
    if turns.shape != (num_files, 6) or places.shape != (num_files, 3):
        raise ScanFileError(f"{name}: a file does not say where its slice lies. Export the series again.")
    if len({_tag(reader, index, SPACING) for index in range(num_files)}) > 1:
        raise ScanFileError(f"{name}: its slices differ in the spacing of their pixels. Export the series again.")
    if np.abs(turns - turns[0]).max() > TURNED:
        raise ScanFileError(f"{name}: its slices are turned against each other. Put each series into its own folder.")
    normal = np.cross(turns[0, :3], turns[0, 3:])
    along = places @ normal
    sideways = np.linalg.norm(places - places[0] - np.outer(along - along[0], normal), axis=1).max()
    if sideways > MOST_SIDEWAYS_MM:
        raise ScanFileError(
            f"{name}: its slices move sideways by up to {sideways:.3g} mm, as with a tilted gantry. Convert the series "
            "with a tool that straightens it, such as dcm2niix."
        )
    steps = np.diff(along) * np.sign(along[-1] - along[0])
    usual = float(np.median(steps))
    off = np.flatnonzero(np.abs(steps - usual) > UNEVEN_SHARE * abs(usual))
    if usual == 0 or len(off):
        where = int(off[0]) if len(off) else 0
        raise ScanFileError(
            f"{name}: slices {where + 1} and {where + 2} of {num_files} lie {steps[where]:.4g} mm apart, others "
            f"{usual:.4g} mm: a slice is missing, or there are two of one. Export the series again."
        )


def _was_dicom(path: Path) -> bool:
    """Return whether a file that is not DICOM seems to have been: a slice at the end of a series leaves no gap."""
    try:
        return path.is_file() and (path.suffix.lower() in DICOM_ENDINGS or path.stat().st_size == 0)
    except OSError:
        return True


def _files(folder: Path) -> list[Path]:
    return [path for path in _list(folder) if is_dicom(path)]


def _list(folder: Path) -> list[Path]:
    """List a folder; one without permission to read counts as empty."""
    try:
        return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    except OSError:
        return []


def _tag(reader: sitk.ImageSeriesReader, index: int, tag: str) -> str:
    return str(reader.GetMetaData(index, tag)).strip() if reader.HasMetaDataKey(index, tag) else ""


def _numbers(text: str) -> Sequence[float]:
    return [float(part) for part in text.split("\\")]
