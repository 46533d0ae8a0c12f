"""Any tree of DICOM series whose organs were drawn as contours (RTSTRUCT) or segments (SEG).

    python -m dataset_conversion.dicom_with_annotations SOURCE OUT [--labels FILE] [--missing-is-unknown]

Owns: names of structures as labels, and cases that cannot be used.
Does not own: which files belong together (`dicom_patients.py`), the label map of a case (`annotation_maps.py`).

Structures whose names differ in case and white space alone are one label. A structure that was named but not drawn is
not there; with --missing-is-unknown it was not looked for.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from autoseg.errors import Problem, ScanFileError, printable
from autoseg.io.byte_stream import display_name
from dataset_conversion import dicom_segments, rtstruct
from dataset_conversion.annotation_maps import read_annotated
from dataset_conversion.conversion import run_conversion
from dataset_conversion.dicom_objects import RTSTRUCT
from dataset_conversion.dicom_patients import AnnotatedSeries, find_annotated_series
from dataset_conversion.finding import nothing_found
from dataset_conversion.label_choice import (
    LabelChoice,
    add_label_options,
    annotate,
    join,
    match_names,
    report_lacking,
)
from dataset_conversion.source import Origin, SourceCase, SourceDataset

ORIGIN = Origin(
    name="dicom_with_annotations",
    title="DICOM series with contours or segmentations",
    licence="that of your data",
    reference="Own data.",
    layout="a folder a patient, with image series and the RTSTRUCT or SEG files that refer to them, at any depth",
    get_it="Export both together, from one archive.",
)
CHANNELS = {("ct",): "CT", ("mr",): "MRI", ("ct", "mr"): "CT/MRI", ("pt",): "PET"}


def find(source: Path, *, labels: Path | None = None, missing_is_unknown: bool = False) -> list[SourceDataset]:
    """Find the annotated series, and the labels that their structures make.

    Args:
        source: Folder of the patients.
        labels: The user's file of labels; None makes a label of each name.
        missing_is_unknown: Whether a structure that a case lacks was not looked for.

    Raises:
        DatasetError: No series is annotated.
        UsageError: pydicom is not installed, or the file of labels makes no sense.
    """
    series, problems = find_annotated_series(source)
    names, more = _read_names(series)
    problems += more
    choice = join(labels, [name for lists in names.values() for one in lists for name in one])
    values, more = match_names(choice, [name for lists in names.values() for one in lists for name in one])
    problems += more
    there = {case: {choice.label_of(name) for one in lists for name in one} for case, lists in names.items()}
    problems += _report_unusable(series, names, choice)
    unusable = {problem.case_id for problem in problems if problem.is_error}
    usable = [one for one in series if one.case_id in names and one.case_id not in unusable]
    if not usable:
        raise nothing_found(source, ORIGIN, problems=problems)
    cases = [SourceCase(one.case_id, (one.slices[0].parent,), one.annotation_place, one.patient) for one in usable]
    if missing_is_unknown:
        cases = [annotate(case, choice, there=there[case.case_id]) for case in cases]
    else:
        problems += report_lacking(choice, {case.case_id: there[case.case_id] for case in cases})
    modalities = tuple(sorted({one.modality for one in usable}))
    return [
        SourceDataset(
            channel_names=[CHANNELS.get(modalities) or "/".join(modalities).upper()],
            labels=choice.labels,
            cases=cases,
            problems=problems,
            read=partial(read_annotated, series={one.case_id: one for one in usable}, choice=choice),
            settings={"values": values},
        )
    ]


def _read_names(series: Sequence[AnnotatedSeries]) -> tuple[dict[str, list[tuple[str, ...]]], list[Problem]]:
    """Read the names of the structures of each file of each case; a case with a damaged file becomes a problem."""
    names, problems = {}, []
    for one in series:
        try:
            names[one.case_id] = [
                (rtstruct if header.sop_class == RTSTRUCT else dicom_segments).read_names(header.path)
                for header in one.annotations
            ]
        except ScanFileError as error:
            problems.append(Problem(one.case_id, str(error)))
    return names, problems


def _report_unusable(
    series: Sequence[AnnotatedSeries], names: Mapping[str, Sequence[Sequence[str]]], choice: LabelChoice
) -> list[Problem]:
    """Return a problem for each case without a structure that is a label, or with a label in several files."""
    problems = []
    for one in series:
        holders: dict[str, list[str]] = {}
        for header, inside in zip(one.annotations, names.get(one.case_id, ()), strict=False):
            for label in {choice.label_of(name) for name in inside} - {None}:
                holders.setdefault(str(label), []).append(display_name(header.path))
        if one.case_id in names and not holders:
            problems.append(Problem(one.case_id, "none of its structures is a label. Check the file of labels."))
        twice = [label for label in choice.sources if len(holders.get(label, ())) > 1]
        if twice:
            message = f"{' and '.join(holders[twice[0]])} both hold {printable(twice[0])!r}. Keep one of them."
            problems.append(Problem(one.case_id, message))
    return problems


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_label_options(parser, what="name of a structure")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv, add_options=_add_options)


if __name__ == "__main__":
    sys.exit(main())
