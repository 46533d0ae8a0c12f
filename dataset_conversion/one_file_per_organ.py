"""Any folder of cases whose organs are masks in files of their own.

    python -m dataset_conversion.one_file_per_organ SOURCE OUT [--image {case}/ct.nii.gz] [--masks {case}/segmentations]

Owns: where images and masks lie, which files become which labels, and organs that some cases lack.
Does not own: reading masks (`organ_files.py`), voxels that several masks hold (`organ_masks.py`).

An organ without a file in a case counts as not there; with --missing-is-unknown it counts as not looked for, and
training leaves it alone in that case.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from autoseg.errors import Problem, UsageError
from dataset_conversion.conversion import run_conversion
from dataset_conversion.finding import CASE, find_cases, nothing_found
from dataset_conversion.label_choice import add_label_options, annotate, join, match_names, report_lacking
from dataset_conversion.organ_files import list_organs, read_organ_files
from dataset_conversion.source import Origin, SourceDataset

ORIGIN = Origin(
    name="one_file_per_organ",
    title="scans with one mask file an organ",
    licence="that of your data",
    reference="Own data.",
    layout="<case>/ct.nii.gz and <case>/segmentations/<organ>.nii.gz, or what --image and --masks say",
    get_it="Name the places with --image and --masks.",
)


def find(
    source: Path,
    *,
    image: Sequence[str] = (f"{CASE}/ct.nii.gz",),
    masks: str = f"{CASE}/segmentations",
    channel: Sequence[str] = ("CT",),
    labels: Path | None = None,
    missing_is_unknown: bool = False,
) -> list[SourceDataset]:
    """Find the cases, and the labels that their mask files make.

    Args:
        source: Folder of the cases.
        image: Template of the image, one a channel.
        masks: Template of the folder of masks.
        channel: Names of the channels.
        labels: The user's file of labels; None makes a label of each file name.
        missing_is_unknown: Whether an organ without a file was not looked for.

    Raises:
        UsageError: A template names no case, or there are other numbers of images and channels.
        DatasetError: Nothing is there.
    """
    for template in (*image, masks):
        if CASE not in template:
            raise UsageError(f"{template!r:.80} does not say where the name of the case stands; expected {CASE} in it.")
    if len(image) != len(channel):
        raise UsageError(f"--image names {len(image)} files and --channel {len(channel)}; expected a name for each.")
    cases, problems = find_cases(source, images=image, label=masks, case="[^/]+")
    if not cases:
        raise nothing_found(source, ORIGIN, problems=problems)
    files = {case.case_id: list_organs(case) for case in cases}
    stems = [stem for found in files.values() for stem in found]
    choice = join(labels, stems)
    organs, unmatched = match_names(choice, stems)
    problems += unmatched
    there = {case: {choice.label_of(stem) for stem in found} for case, found in files.items()}
    if missing_is_unknown:
        cases = [annotate(case, choice, there=there[case.case_id]) for case in cases]
    else:
        problems += report_lacking(choice, there)
    empty = [case.case_id for case in cases if not files[case.case_id].keys() & organs.keys()]
    problems += [Problem(name, "its folder holds no mask of an organ. Copy or download it again.") for name in empty]
    return [
        SourceDataset(
            channel_names=list(channel),
            labels=choice.labels,
            cases=[case for case in cases if case.case_id not in empty],
            problems=problems,
            read=partial(read_organ_files, organs=organs, names={value: name for name, value in choice.labels.items()}),
            settings={"organs": organs},
        )
    ]


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image",
        nargs="+",
        default=[f"{CASE}/ct.nii.gz"],
        metavar="PATH",
        help="image below SOURCE, one a channel (default: %(default)s)",
    )
    parser.add_argument(
        "--masks", default=f"{CASE}/segmentations", metavar="PATH", help="folder of the masks (default: %(default)s)"
    )
    parser.add_argument(
        "--channel", nargs="+", default=["CT"], metavar="NAME", help="names of the channels (default: CT)"
    )
    add_label_options(parser, what="file name")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the conversion and return its exit code."""
    return run_conversion(ORIGIN, find, argv, add_options=_add_options)


if __name__ == "__main__":
    sys.exit(main())
