"""A source becomes one or more datasets in nnU-Net's layout: what all conversions do in the same way.

Owns: the command line of a conversion (`run_conversion`) and its run (`convert`): many cases at once, no bad case the
end of the others, `dataset.json` last.
Does not own: what a source is (`source.py` and its own module), its files (`finding.py`, `case_files.py`).

A conversion's module holds an `Origin` and a function `find(source)` that gives the datasets of the source, and ends in
`run_conversion(ORIGIN, find, argv)`. The source is never written to.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autoseg.cli.common import build_parser, run_command
from autoseg.errors import (
    EXIT_DONE,
    EXIT_SOME_CASES_FAILED,
    AutosegError,
    DatasetError,
    OutputError,
    Problem,
    UsageError,
    format_problems,
    printable,
)
from autoseg.io.image import bytes_in_memory
from autoseg.system.atomic_files import explain_write_error, fault_of, remove_leftovers, write_json
from autoseg.system.file_lock import hold_folder
from autoseg.system.process_pool import WorkerFailure, default_num_workers, map_cases
from dataset_conversion.case_files import convert_case, target_names
from dataset_conversion.resume_log import ConversionLog
from dataset_conversion.source import Origin, SourceCase, SourceDataset, describe

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
COPIES_IN_MEMORY = 2  # of a case while it is read: the bytes as stored, and the values

Find = Callable[..., Sequence[SourceDataset]]


@dataclass(frozen=True)
class Conversion:
    """The result of converting one dataset.

    Attributes:
        folder: Where it is.
        cases: To train on, in `imagesTr`.
        others: In `imagesTs`: without a label map, or kept for testing.
        num_kept: Cases that an earlier run had finished.
        num_links: Files that are hard links to the source's.
        num_organs: Labels of the dataset.
        problems: What is missing, and what could not be converted and why.
    """

    folder: Path
    cases: tuple[str, ...]
    others: tuple[str, ...]
    num_kept: int
    num_links: int
    num_organs: int
    problems: tuple[Problem, ...]


def convert(
    origin: Origin, find: Find, source: Path, *, out: Path, num_workers: int | None = None
) -> tuple[Conversion, ...]:
    """Convert a source.

    Args:
        origin: What the source is.
        find: Gives its datasets; called with `source`.
        source: Its folder; only read.
        out: For the dataset, or for a folder a dataset.
        num_workers: Processes; 0 works in this one, None takes one a core, or as many as the memory allows.

    Raises:
        UsageError: A folder cannot be used.
        DatasetError: The folder is not the source, or no case is usable; with all problems.
        OutputError: The disk is full or broken.
    """
    if not source.is_dir():
        raise UsageError(f"{printable(str(source))} is not a folder. Expected {origin.layout}. {origin.get_it}")
    inner, outer = out.resolve(), source.resolve()
    if outer in (inner, *inner.parents) or inner in outer.parents:
        raise UsageError(
            f"{printable(str(out))} and the source lie in each other, and the source is never written to. Choose "
            "another folder."
        )
    try:
        datasets = find(source)
    except OSError as error:
        raise UsageError(f"{fault_of(error)}. Check the permissions of the source.") from error
    done = tuple(
        convert_dataset(dataset, origin, out=out / dataset.folder, num_workers=num_workers) for dataset in datasets
    )
    if not any(one.cases or one.others for one in done):
        problems = [problem for one in done for problem in one.problems]
        raise DatasetError(
            f"{printable(str(source))} holds no usable case; expected {origin.layout}. {origin.get_it}",
            problems=problems,
        )
    return done


def convert_dataset(dataset: SourceDataset, origin: Origin, *, out: Path, num_workers: int | None) -> Conversion:
    """Convert one dataset of a source; `dataset.json` is there only once all is done.

    Raises:
        UsageError: The folder holds something else, or cannot be written.
        LockedError: Another run works on it.
        OutputError: The disk is full or broken.
    """
    problems = list(dataset.problems)
    cases = _distinct(dataset.cases, problems)
    if not cases:
        return Conversion(out, (), (), 0, 0, len(dataset.labels), tuple(problems))
    try:
        out.mkdir(parents=True, exist_ok=True)
        with hold_folder(out, command=origin.name, remedy="Wait for it, or choose another folder."):
            return _convert_held(dataset, origin, cases=cases, problems=problems, out=out, num_workers=num_workers)
    except OSError as error:
        raise OutputError(explain_write_error(error, out)) from error


def _convert_held(
    dataset: SourceDataset,
    origin: Origin,
    *,
    cases: Sequence[SourceCase],
    problems: list[Problem],
    out: Path,
    num_workers: int | None,
) -> Conversion:
    """Convert the cases that are not done yet and describe the dataset."""
    log_of_cases = ConversionLog(out, name=dataset.name or origin.name)
    problems += log_of_cases.report_gone(cases)
    for folder in FOLDERS:
        remove_leftovers(out / folder)
    done = {case.case_id: kept for case in cases if (kept := log_of_cases.find(case, dataset=dataset)) is not None}
    due = [case for case in cases if case.case_id not in done]
    num_kept = len(done)
    for case in due:
        for name in target_names(case, num_channels=len(dataset.channel_names)):
            (out / name).unlink(missing_ok=True)  # of an earlier version of the source
    if due:
        (out / "dataset.json").unlink(missing_ok=True)
    workers = default_num_workers(_most_bytes(due)) if num_workers is None else num_workers
    work = partial(convert_case, dataset=dataset, out=out)
    for case, result in map_cases(work, due, num_workers=workers, what=f"converting {origin.name}"):
        if not isinstance(result, WorkerFailure):
            log_of_cases.add(case, result, dataset=dataset)
            done[case.case_id] = result
        elif result.is_of_all:
            raise OutputError(result.message)
        else:
            problems.append(Problem(case.case_id, result.message))
    training = tuple(case.case_id for case in cases if case.case_id in done and case.is_training)
    others = tuple(case.case_id for case in cases if case.case_id in done and not case.is_training)
    problems += [Problem(name, note, is_error=False) for name, one in done.items() for note in one.notes]
    if done:
        problems += _report_absent(dataset, found={value for one in done.values() for value in one.values})
        write_json(out / "dataset.json", describe(dataset, origin, training=training))
    num_links = sum(one.num_links for one in done.values())
    return Conversion(out, training, others, num_kept, num_links, len(dataset.labels), tuple(problems))


def _distinct(cases: Sequence[SourceCase], problems: list[Problem]) -> list[SourceCase]:
    """Return the cases without those of the same name, each of which becomes a problem."""
    counts = Counter(case.case_id for case in cases)
    problems += [
        Problem(name, f"stands there {count} times. Keep one, or rename the others.")
        for name, count in counts.items()
        if count > 1
    ]
    return [case for case in cases if counts[case.case_id] == 1]


def _report_absent(dataset: SourceDataset, *, found: set[int]) -> list[Problem]:
    """Return a warning where labels occur in no case."""
    absent = [f"{name} ({value})" for value, name in dataset.values.items() if value not in found]
    return [Problem("", f"no label map holds {', '.join(absent)}.", is_error=False)] if absent and found else []


def _most_bytes(cases: Sequence[SourceCase]) -> float:
    """Estimate what the largest case takes, from the headers; what cannot be read is reported when it is converted."""
    most = 0
    for case in cases:
        total = 0
        for path in case.images:
            try:
                total += bytes_in_memory(path) if path.is_file() else 0
            except AutosegError:
                continue
        most = max(most, total)
    return float(COPIES_IN_MEMORY * most)


def run_conversion(
    origin: Origin,
    find: Find,
    argv: Sequence[str] | None = None,
    *,
    add_options: Callable[[argparse.ArgumentParser], Any] = lambda _parser: None,
) -> int:
    """Run the command of a conversion and return its exit code: 3 where anything is missing or failed.

    Args:
        origin: What the source is.
        find: Gives its datasets; called with the source's folder and, by name, each option that was added.
        argv: Arguments; None for those of the process.
        add_options: Adds options of the conversion's own to the parser.
    """
    command = f"python -m dataset_conversion.{origin.name}"
    parser = build_parser(
        command,
        description=f"Turn {origin.title} into nnU-Net's layout.\nSOURCE holds {origin.layout}.\n{origin.get_it}",
        example=f"{command} downloads/{origin.name} datasets/{origin.name}",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of the source; only read")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the dataset")
    parser.add_argument("--num-workers", type=int, metavar="N", help="processes (default: one a core)")
    add_options(parser)
    return run_command(parser, partial(_work, origin, find), argv)


def _work(origin: Origin, find: Find, arguments: argparse.Namespace) -> int:
    options = dict(vars(arguments))
    source, out, num_workers = (options.pop(name) for name in ("source", "out", "num_workers"))
    if num_workers is not None and num_workers < 1:
        raise UsageError(f"--num-workers {num_workers}: expected at least 1.")
    done = convert(origin, partial(find, **options), source, out=out, num_workers=num_workers)
    for one in done:
        print(
            f"{printable(str(one.folder))}: {len(one.cases)} cases to train on with {one.num_organs} labels, "
            f"{len(one.others)} others in imagesTs; {one.num_kept} were done before; {one.num_links} hard links"
        )
    problems = [problem for one in done for problem in one.problems]
    if problems:
        print("\n".join(format_problems(problems)), file=sys.stderr)
    return EXIT_SOME_CASES_FAILED if any(problem.is_error for problem in problems) else EXIT_DONE
