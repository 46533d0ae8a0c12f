"""TotalSegmentator's sample scans (CT and MR, NIfTI and DICOM) as one dataset in nnU-Net's layout.

    python -m dataset_conversion.totalsegmentator_samples SOURCE OUT

Owns: which files of the source belong together, one table of labels for CT and MR.
Does not own: how scan files are read and written (`autoseg.io.image`, `autoseg.io.dicom`), how a DICOM series comes
onto the grid of its label map (`case_files.py`). Its labels are those that occur, so `conversion.py` does not run it.

SOURCE holds `<case>_labels.nii.gz` beside `<case>.nii.gz` or a folder `<case>/` with one DICOM series, and
`label_names.json` with the label values of "ct" and of "mr": {"ct": {"spleen": 1, ..}, "mr": {..}}. A scan without a
label map becomes a scan to predict (`imagesTs`). The label maps are a model's output (Apache-2.0), not a person's.

An organ keeps the value that it has on CT; organs that only MR names come after the last of CT. Values that no scan
holds are left out of `dataset.json`, so the table has gaps. An organ that only one of the two tables knows is
background in the scans of the other.
"""

import argparse
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.cli.common import build_parser, run_command
from autoseg.errors import (
    EXIT_DONE,
    EXIT_SOME_CASES_FAILED,
    AutosegError,
    DatasetError,
    Problem,
    ScanFileError,
    UsageError,
    format_problems,
    printable,
)
from autoseg.io.dicom import read_series
from autoseg.io.image import is_scan_name, read_labels, read_scan, scan_stem, write_label_map, write_scan
from autoseg.system.atomic_files import read_json, write_json
from dataset_conversion.case_files import put_on_grid

log = logging.getLogger("autoseg")

EXPECTED_CASES = ("ct_small", "dicom_series", "mr_small")
CHANNEL_NAME = "CT/MRI"  # both kinds in one channel: each scan is normalized by itself
LABEL_ENDING = "_labels"


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Attributes:
        cases: With a label map, in `imagesTr`.
        unlabeled: In `imagesTs`.
        labels: Value by the name of each organ that occurs.
        problems: What is missing, and what cannot be used and why.
    """

    cases: tuple[str, ...]
    unlabeled: tuple[str, ...]
    labels: Mapping[str, int]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Tables:
    """Label values: of the source by kind ("ct", "mr"), and the one table of the result."""

    of_kind: Mapping[str, Mapping[str, int]]
    united: Mapping[str, int]


def convert(source: Path, out: Path) -> Conversion:
    """Convert a folder; `dataset.json` is written last.

    Raises:
        UsageError: A folder or `label_names.json` cannot be used.
        DatasetError: No case is usable.
    """
    if not source.is_dir():
        raise UsageError(f"{printable(str(source))} is not a folder.")
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError(f"{printable(str(out))} lies in the source, which is never written to. Choose another folder.")
    tables = read_tables(source / "label_names.json")
    scans = find_scans(source)
    problems = [
        Problem(name, f"is missing: expected {name}.nii.gz or a folder {name}, and {name}{LABEL_ENDING}.nii.gz.")
        for name in EXPECTED_CASES
        if name not in scans or not _label_path(source, name).exists()
    ]
    cases: list[str] = []
    unlabeled: list[str] = []
    found: set[int] = set()
    for name, path in scans.items():
        try:
            values = _convert_case(name, path, out=out, tables=tables)
        except (AutosegError, OSError) as error:
            problems.append(Problem(name, str(error)))
            continue
        (cases if values is not None else unlabeled).append(name)
        found |= values or set()
    if not cases:
        raise DatasetError(f"{printable(str(source))} holds no usable case.", problems=problems)
    labels = {name: value for name, value in tables.united.items() if value in found}
    write_json(out / "dataset.json", _describe(labels, num_cases=len(cases)))
    return Conversion(tuple(cases), tuple(unlabeled), labels, tuple(problems))


def find_scans(source: Path) -> dict[str, Path]:
    """Find every scan of the source by its name: a NIfTI file, or a folder with DICOM files."""
    scans: dict[str, Path] = {}
    for path in sorted(source.iterdir()):
        if path.is_dir() and any(file.suffix.lower() == ".dcm" for file in path.iterdir()):
            scans[path.name] = path
        elif is_scan_name(path.name) and not scan_stem(path).endswith(LABEL_ENDING):
            scans[scan_stem(path)] = path
    return scans


def read_tables(path: Path) -> _Tables:
    """Read the label values of CT and of MR, and unite them by name.

    Raises:
        UsageError: The file does not hold both, or a name or value is no label.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {"ct", "mr"} <= content.keys():
        raise UsageError(f'{printable(str(path))}: expected {{"ct": {{name: value}}, "mr": {{name: value}}}}.')
    of_kind: dict[str, dict[str, int]] = {}
    for kind in ("ct", "mr"):
        table = content[kind]
        values = list(table.values()) if isinstance(table, dict) else [None]
        if not all(type(value) is int and 0 < value < 2**16 for value in values) or len(set(values)) < len(values):
            raise UsageError(f'{printable(str(path))}: the values of "{kind}" must be different numbers from 1 on.')
        of_kind[kind] = table
    united = dict(of_kind["ct"])
    for name in of_kind["mr"]:
        united.setdefault(name, max(united.values(), default=0) + 1)
    return _Tables(of_kind=of_kind, united=united)


def _convert_case(name: str, path: Path, *, out: Path, tables: _Tables) -> set[int] | None:
    """Write one case; return the values of its organs, or None where it has no label map."""
    scan, kind = read_series(path) if path.is_dir() else (read_scan(path), _kind_from(name))
    label_path = _label_path(path.parent, name)
    if not label_path.exists():
        write_scan(out / "imagesTs" / f"{name}_0000.nii.gz", scan.array_zyx, geometry=scan.geometry)
        return None
    if kind not in tables.of_kind:
        raise ScanFileError(f"is neither CT nor MR (found {printable(kind)!r}), so its label values have no names.")
    stored = read_labels(label_path)
    image = put_on_grid(scan, stored.geometry).array_zyx
    labels = _renumber(stored.array_zyx, table=tables.of_kind[kind], united=tables.united)
    values = {int(value) for value in np.unique(labels)} - {0}
    names = {tables.united[name]: name for name in tables.united if tables.united[name] in values}
    write_scan(out / "imagesTr" / f"{name}_0000.nii.gz", image, geometry=stored.geometry)
    write_label_map(out / "labelsTr" / f"{name}.nii.gz", labels, geometry=stored.geometry, names=names)
    return values


def _renumber(labels: np.ndarray, *, table: Mapping[str, int], united: Mapping[str, int]) -> np.ndarray:
    new_values = np.zeros(2**16, dtype=np.uint16)
    for name, value in table.items():
        new_values[value] = united[name]
    present = {int(value) for value in np.unique(labels)} - {0}
    unknown = sorted(present - set(table.values()))
    if unknown:
        raise ScanFileError(f"the label map holds {unknown[0]}, which label_names.json does not name. Add the name.")
    return new_values[labels]


def _kind_from(name: str) -> str:
    """Tell CT from MR by the words of a file name."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    return "ct" if "ct" in words else "mr" if words & {"mr", "mri"} else name


def _label_path(source: Path, name: str) -> Path:
    return source / f"{name}{LABEL_ENDING}.nii.gz"


def _describe(labels: Mapping[str, int], *, num_cases: int) -> dict[str, Any]:
    return {
        "name": "totalsegmentator_samples",
        "description": "Sample scans of TotalSegmentator; the label maps are a model's output.",
        "licence": "Apache-2.0",
        "channel_names": {"0": CHANNEL_NAME},
        "labels": {"background": 0, **labels},
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code: 3 where something is missing."""
    parser = build_parser(
        "python -m dataset_conversion.totalsegmentator_samples",
        description="Turn TotalSegmentator's sample scans into one dataset of CT and MR in nnU-Net's layout.",
        example="python -m dataset_conversion.totalsegmentator_samples samples/ datasets/multi_organ",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of scans, label maps and label_names.json")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the dataset")
    return run_command(parser, _main, argv)


def _main(arguments: argparse.Namespace) -> int:
    done = convert(arguments.source, arguments.out)
    print(f"{len(done.cases)} cases ({', '.join(map(printable, done.cases))}) with {len(done.labels)} organs")
    print(f"{len(done.unlabeled)} scans without labels, in imagesTs")
    if done.problems:
        print("\n".join(format_problems(done.problems)), file=sys.stderr)
    return EXIT_SOME_CASES_FAILED if done.problems else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
