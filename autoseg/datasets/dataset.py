"""Reads a dataset: its cases, labels and channels, and all problems of its files at once.

Owns: `Dataset`, `read_dataset`, `read_channels`.
Does not own: scans without labels (`prediction_inputs.py`), the layouts (`layouts.py`), names
(`labels.py`), the content of scans (`fingerprint/fingerprint.py`).

`dataset.json` may contain `name`, `channel_names` (or `modality`), `labels`, `file_ending`, `training` (MSD), and
autoseg's own `patients` {case: patient}, `descriptions` {organ: text} and `annotated_labels` {case: [label, ..]} where
not all labels were annotated in all cases. All are optional. Without the file, `labels.json` may name the labels.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoseg.datasets.annotations import parse_annotated
from autoseg.datasets.labels import (
    LabelSet,
    ListValues,
    Organ,
    discover_labels,
    list_label_values,
    parse_channel_names,
    parse_labels,
)
from autoseg.datasets.layouts import Candidate, CaseFiles, candidates_in_folders, candidates_in_list, finish_cases
from autoseg.errors import DatasetError, Problem, UsageError
from autoseg.io.byte_stream import display_name, file_fault
from autoseg.io.image import SCAN_ENDINGS, Scan, read_all_volumes, read_scan
from autoseg.system.atomic_files import read_json

__all__ = ["CaseFiles", "Dataset", "LabelSet", "Organ", "read_channels", "read_dataset"]

UNKNOWN_CHANNEL = "unknown"
_LAYOUTS = (
    "imagesTr/ and labelsTr/ (nnU-Net), a dataset.json with a training list (Medical Segmentation Decathlon), or "
    "images/ and labels/ with the same file names"
)


@dataclass(frozen=True)
class Dataset:
    """Scans with label maps.

    Attributes:
        name: The name for people.
        root: The folder of the dataset.
        channel_names: The names of the channels, in the order of `CaseFiles.image_paths`.
        labels: The meaning of the label values.
        cases: The cases whose files are complete, sorted by id.
        problems: All problems found so far; cases with an error are not among `cases`.
    """

    name: str
    root: Path
    channel_names: tuple[str, ...]
    labels: LabelSet
    cases: tuple[CaseFiles, ...]
    problems: tuple[Problem, ...]


def read_dataset(root: Path, *, list_values: ListValues = list_label_values) -> Dataset:
    """Read which cases, labels and channels a dataset has; only the headers of 4D images are opened.

    Args:
        root: The folder of the dataset.
        list_values: A function that lists the values of a label map, used where no file names the labels.

    Raises:
        DatasetError: Nothing can be used: no such folder, unknown layout, a damaged `dataset.json`, no labels, or no
            cases. It lists all problems.
    """
    root = Path(root)
    problems: list[Problem] = []
    content = _read_description(root)
    channel_names = parse_channel_names(content, problems)
    candidates = _find_candidates(root, content, problems)
    if channel_names is None:
        channel_names = _unknown_channels(candidates, problems)
    cases = finish_cases(
        candidates,
        channel_names=channel_names,
        needs_labels=True,
        patients=_patients(content, candidates, problems),
        problems=problems,
    )
    if "labels" in content:
        labels = parse_labels(content["labels"], content.get("descriptions"), problems)
    else:
        paths = [case.label_path for case in cases if case.label_path]
        labels = discover_labels(paths, problems, list_values=list_values)
    annotated = parse_annotated(
        content.get("annotated_labels"), labels=labels, case_ids=set(candidates), problems=problems
    )
    cases = tuple(replace(case, annotated=annotated.get(case.case_id)) for case in cases)
    where = display_name(root / "dataset.json")
    if any(problem.is_error and not problem.case_id for problem in problems):
        raise DatasetError(f"the dataset cannot be used ({where}). Correct what is listed below.", problems=problems)
    if not cases:
        raise DatasetError(
            f"0 of {len(candidates)} cases can be used ({where}). Correct what is listed below.", problems=problems
        )
    if not labels.organs:
        raise DatasetError(
            f"the dataset has no labels but the background ({where}). Add the organs to its labels.", problems=problems
        )
    return Dataset(_name(root, content), root, channel_names, labels, cases, tuple(problems))


def read_channels(case: CaseFiles) -> tuple[Scan, ...]:
    """Read all channels of a case, from separate files or from one 4D file.

    Raises:
        ScanFileError: A file is damaged or does not contain the channel.
    """
    if not case.volumes:
        return tuple(_read_one(path) for path in case.image_paths)
    files = {path: read_all_volumes(path) for path in dict.fromkeys(case.image_paths)}
    return tuple(files[path][volume] for path, volume in zip(case.image_paths, case.volumes, strict=True))


def _read_one(path: Path) -> Scan:
    if not path.is_dir():
        return read_scan(path)
    from autoseg.io.dicom import read_series  # SimpleITK loads only for DICOM

    return read_series(path)[0]


def _read_description(root: Path) -> Mapping[str, Any]:
    """Return the content of `dataset.json`, or else of `labels.json`, or else an empty object."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(f"{display_name(root)} {what}. Expected a folder with {_LAYOUTS}.")
    for name in ("dataset.json", "labels.json"):
        path = root / name
        if not (path.exists() or path.is_symlink()):
            continue
        fault = file_fault(path)
        if fault:
            raise DatasetError(f"the dataset cannot be used: {fault}")
        try:
            content = read_json(path)
        except UsageError as error:
            raise DatasetError(f"the dataset cannot be used: {error}") from error
        if not isinstance(content, dict):
            raise DatasetError(
                f'{display_name(path)} holds no JSON object. Write one, such as {{"labels": {{"liver": 1}}}}.'
            )
        _refuse_broken_text(content, display_name(path))
        is_bare = name == "labels.json" and "labels" not in content
        return {"labels": content} if is_bare else content
    return {}


def _refuse_broken_text(content: Mapping[str, Any], name: str) -> None:
    """Refuse names with lone surrogates, which JSON escapes can express but no file can store; paths may have them."""
    for key in ("name", "labels", "channel_names", "modality", "descriptions"):
        try:
            json.dumps(content.get(key), ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DatasetError(
                f"{name}: {key} holds half a character (a lone surrogate, such as \\ud800). Write the text again."
            ) from None


def _find_candidates(root: Path, content: Mapping[str, Any], problems: list[Problem]) -> dict[str, Candidate]:
    ending = content.get("file_ending")
    if ending is not None and ending not in SCAN_ENDINGS:
        raise DatasetError(
            f"file_ending is {ending!r:.40}; expected one of {', '.join(SCAN_ENDINGS)}. Convert the scans.",
            problems=problems,
        )
    training = content.get("training")
    if isinstance(training, list) and training and not all(isinstance(entry, str) for entry in training):
        return candidates_in_list(root, training, problems)
    for images, labels, has_suffixes in (("imagesTr", "labelsTr", True), ("images", "labels", False)):
        if (root / images).is_dir():
            return candidates_in_folders(
                root / images, root / labels, has_suffixes=has_suffixes, file_ending=ending, problems=problems
            )
    inside = sorted(
        child.name for child in root.iterdir() if (child / "imagesTr").is_dir() or (child / "images").is_dir()
    )
    hint = f" Did you mean the folder {inside[0]!r} inside it?" if inside else ""
    raise DatasetError(f"{display_name(root)} holds no dataset: expected {_LAYOUTS}.{hint}", problems=problems)


def _unknown_channels(candidates: Mapping[str, Candidate], problems: list[Problem]) -> tuple[str, ...]:
    numbers = [channel for candidate in candidates.values() for channel in candidate.images if channel is not None]
    count = max(numbers, default=0) + 1 if max(numbers, default=0) < 32 else 1
    message = f'the channels have no names; {count} of unknown kind taken. Add channel_names, such as {{"0": "CT"}}.'
    problems.append(Problem("", message, is_error=False))
    return (UNKNOWN_CHANNEL,) * count


def _patients(
    content: Mapping[str, Any], candidates: Mapping[str, Candidate], problems: list[Problem]
) -> Mapping[str, str]:
    patients = content.get("patients", {})
    if not isinstance(patients, Mapping) or not all(isinstance(name, str) and name for name in patients.values()):
        problems.append(Problem("", f'patients is {patients!r:.80}; expected {{"case": "patient"}}.'))
        return {}
    unknown = sorted(set(patients) - set(candidates))
    if unknown:
        message = f"patients names {len(unknown)} cases that are not there, as {unknown[0]!r:.80}."
        problems.append(Problem("", message, is_error=False))
    return patients


def _name(root: Path, content: Mapping[str, Any]) -> str:
    name = content.get("name")
    name = name.strip() if isinstance(name, str) else ""
    return (name or root.resolve().name or "dataset")[:200]
