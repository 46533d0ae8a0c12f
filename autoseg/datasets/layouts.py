"""Finds which files belong to which case, in the layouts that are common for datasets.

Owns: `CaseFiles`; finding images and labels by folder or by list; all problems that show without reading voxels.
Does not own: names of labels and channels (`labels.py`), the content of files (`fingerprint/fingerprint.py`).

    nnU-Net   imagesTr/<case>_<channel, four digits>.nii.gz   labelsTr/<case>.nii.gz
    MSD       dataset.json lists {"image": path, "label": path}; several channels lie in one 4D file
    plain     images/<any name>.nii.gz   labels/<the same name>.nii.gz
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from autoseg.errors import Problem, ScanFileError
from autoseg.io.byte_stream import display_name, file_fault
from autoseg.io.image import SCAN_ENDINGS, count_volumes, is_scan_name, scan_stem

MOST_ID_BYTES = 200  # a name of a file has 255 at most, and ours add endings and what marks a file being written
CHANNEL_SUFFIX = re.compile(r"(.+)_([0-9]{4})", flags=re.DOTALL)  # a file name may hold a newline


@dataclass(frozen=True)
class CaseFiles:
    """The files of one scan of one patient.

    Attributes:
        case_id: The name of the case, unique in its dataset even if case is ignored.
        image_paths: One path per channel; the same path repeatedly if the channels are in one 4D file.
        label_path: The label map; None for a scan to predict.
        patient_id: The patient; cases of one patient are never on both sides of a split.
        volumes: The volume of each channel in a 4D file; empty if every channel has a file of its own.
        annotated: The names of the labels that were annotated in the case; None means all of its dataset.
        dataset: The name of its dataset in a plan over several datasets.
    """

    case_id: str
    image_paths: tuple[Path, ...]
    label_path: Path | None
    patient_id: str
    volumes: tuple[int, ...] = ()
    annotated: tuple[str, ...] | None = None
    dataset: str | None = None


@dataclass
class Candidate:
    """Files that seem to belong to one case, before any check.

    Attributes:
        images: The files found for each channel; the key None stands for names without a channel number.
        labels: The label maps of the case.
        faults: The faults that are already known.
    """

    images: dict[int | None, list[Path]] = field(default_factory=dict)
    labels: list[Path] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def list_scans(folder: Path, problems: list[Problem]) -> list[Path]:
    """Return the scan files of a folder, sorted by name; one warning names the other files, except hidden ones."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        problems.append(Problem("", f"{display_name(folder)} cannot be listed: {error.strerror}. Check the folder."))
        return []
    others = [name for name in names if not name.startswith(".") and not is_scan_name(name)]
    if others:
        message = (
            f"{display_name(folder)}: {len(others)} entries are no {', '.join(SCAN_ENDINGS)} and are not read, as "
            f"{others[0]!r}."
        )
        problems.append(Problem("", message, is_error=False))
    return [folder / name for name in names if is_scan_name(name)]


def group_images(paths: Iterable[Path], *, label_stems: Iterable[str] = (), has_suffixes: bool) -> dict[str, Candidate]:
    """Group the files of each case.

    A name such as "a_0001" is channel 1 of case "a", or the case "a_0001". The existing labels decide, and
    `has_suffixes` where they do not.
    """
    stems = set(label_stems)
    candidates: dict[str, Candidate] = {}
    for path in paths:
        stem = scan_stem(path)
        case_id, channel = stem, None
        match = CHANNEL_SUFFIX.fullmatch(stem)
        if match:
            is_case, is_channel = stem in stems, match[1] in stems
            if has_suffixes if is_case == is_channel else is_channel:
                case_id, channel = match[1], int(match[2])
        candidates.setdefault(case_id, Candidate()).images.setdefault(channel, []).append(path)
    return candidates


def candidates_in_folders(
    images: Path, labels: Path, *, has_suffixes: bool, file_ending: str | None, problems: list[Problem]
) -> dict[str, Candidate]:
    """Find the cases of the nnU-Net and the plain layout.

    Args:
        images: The folder of the images.
        labels: The folder of the label maps, which have the names of their cases.
        has_suffixes: Whether image names of this layout end in a channel number.
        file_ending: The ending of the files to use; None uses all scans.
        problems: The list that problems are added to.
    """

    def scans(folder: Path) -> list[Path]:
        return [path for path in list_scans(folder, problems) if path.name.endswith(file_ending or "")]

    label_paths = scans(labels)
    stems = [scan_stem(path) for path in label_paths]
    candidates = group_images(scans(images), label_stems=stems, has_suffixes=has_suffixes)
    for stem, path in zip(stems, label_paths, strict=True):
        candidates.setdefault(stem, Candidate()).labels.append(path)
    return candidates


def candidates_in_list(root: Path, training: Sequence[Any], problems: list[Problem]) -> dict[str, Candidate]:
    """Find the cases that the `training` list of an MSD `dataset.json` names.

    nnU-Net's first version lists "imagesTr/a.nii.gz" for files called a_0000.nii.gz, a_0001.nii.gz; both are found.
    """
    candidates: dict[str, Candidate] = {}
    folders: dict[Path, dict[str, Candidate]] = {}  # the contents of the folders that were listed
    for index, entry in enumerate(training):
        if not isinstance(entry, Mapping) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            message = f'entry {index} of training is {entry!r:.80}; expected {{"image": path, "label": path}}.'
            problems.append(Problem("", message))
            continue
        case_id = scan_stem(PurePosixPath(entry["image"]).name) or f"entry {index}"
        candidate = candidates.setdefault(case_id, Candidate())
        outside = [path for path in (entry["image"], entry["label"]) if _leaves_folder(path)]
        if outside:
            candidate.faults.append(
                f"the path {outside[0]!r:.120} leads out of the dataset's folder. Use paths inside it."
            )
            continue
        image = root / entry["image"]
        candidate.labels.append(root / entry["label"])
        numbered: dict[int | None, list[Path]] = {}
        if not _is_there(image):
            if image.parent not in folders:
                folders[image.parent] = group_images(list_scans(image.parent, []), has_suffixes=True)
            siblings = folders[image.parent].get(case_id, Candidate()).images
            numbered = {channel: paths for channel, paths in siblings.items() if channel is not None}
        for channel, paths in (numbered or {None: [image]}).items():
            candidate.images.setdefault(channel, []).extend(paths)
    return candidates


def finish_cases(
    candidates: Mapping[str, Candidate],
    *,
    channel_names: Sequence[str],
    needs_labels: bool,
    patients: Mapping[str, str],
    problems: list[Problem],
) -> tuple[CaseFiles, ...]:
    """Return the candidates without a fault, sorted by id, and add a problem for each fault of the others."""
    spellings: dict[str, list[str]] = {}
    for case_id in candidates:
        spellings.setdefault(unicodedata.normalize("NFC", case_id).casefold(), []).append(case_id)
    cases = []
    for case_id, candidate in sorted(candidates.items()):
        faults = list(candidate.faults)
        num_bytes = len(os.fsencode(case_id))
        if num_bytes > MOST_ID_BYTES:
            faults.append(
                f"its name has {num_bytes} bytes; expected at most {MOST_ID_BYTES}, for longer names of files are made "
                "of it. Rename its files."
            )
        others = [name for name in spellings[unicodedata.normalize("NFC", case_id).casefold()] if name != case_id]
        if others:
            faults.append(f"its id differs from {others[0]!r} only in upper and lower case. Rename one.")
        paths, volumes = _check_images(candidate, channel_names, faults)
        label_path = _check_label(candidate, faults) if needs_labels else None
        problems.extend(Problem(case_id, fault) for fault in faults)
        if not faults:
            patient = patients.get(case_id, case_id)
            cases.append(CaseFiles(case_id, tuple(paths), label_path, patient, volumes=tuple(volumes)))
    return tuple(cases)


def _check_images(candidate: Candidate, names: Sequence[str], faults: list[str]) -> tuple[list[Path], list[int]]:
    """Return one path per channel, and the volumes if the channels are in one file."""
    images = candidate.images
    if not images:
        if not candidate.faults:
            faults.append("there is a label but no image. Add the image or remove the label.")
        return [], []
    before = len(faults)
    for channel, paths in images.items():
        where = "for its image" if channel is None else f"for channel {channel:04d}"
        if len(paths) > 1:
            faults.append(f"there are {len(paths)} files {where}: {', '.join(path.name for path in paths)}. Keep one.")
        faults.extend(fault for fault in map(file_fault, paths) if fault)
    if None in images and len(images) > 1:
        faults.append("there are image files with and without a channel number. Name them all <case>_<four digits>.")
    if len(faults) > before:
        return [], []
    if None in images:
        return _check_one_file(images[None][0], names, faults)
    for channel, name in enumerate(names):
        if channel not in images:
            faults.append(f"channel {channel:04d} ({name}) is missing. Add it, or take it out of channel_names.")
    for channel in sorted(key for key in images if key is not None and key >= len(names)):
        faults.append(f"channel {channel:04d} is there, but channel_names has only {len(names)}. Add its name.")
    return [images[channel][0] for channel in range(len(names)) if channel in images], []


def _check_one_file(path: Path, names: Sequence[str], faults: list[str]) -> tuple[list[Path], list[int]]:
    if len(names) == 1:
        return [path], []
    try:
        num_volumes = count_volumes(path)
    except ScanFileError as error:
        faults.append(str(error))
        return [], []
    if num_volumes != len(names):
        faults.append(
            f"{display_name(path)} holds {num_volumes} volumes; expected {len(names)} channels ({', '.join(names)}), "
            f"as one 4D file or as files named <case>_<four digits>."
        )
    return [path] * len(names), list(range(len(names)))


def _check_label(candidate: Candidate, faults: list[str]) -> Path | None:
    if not candidate.labels:
        if not candidate.faults:
            faults.append("there is an image but no label. Add the label or remove the image.")
        return None
    if len(candidate.labels) > 1:
        names = ", ".join(path.name for path in candidate.labels)
        faults.append(f"there are {len(candidate.labels)} label files: {names}. Keep one.")
    faults.extend(fault for fault in map(file_fault, candidate.labels) if fault)
    return candidate.labels[0]


def _leaves_folder(text: str) -> bool:
    """Return whether a path in a dataset file is absolute or leaves the folder, by the rules of any system."""
    parts = PurePosixPath(text.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or bool(PureWindowsPath(text).drive) or "\0" in text


def _is_there(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()
    except OSError:  # such as a name that is too long
        return False
