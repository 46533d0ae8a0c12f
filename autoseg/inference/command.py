"""`autoseg.predict_files`, the library call behind `autoseg_predict`: many cases, one after the other.

Owns: the loop over cases, the output folder, and what happens to a case that cannot be predicted.
Does not own: the files of a case (`case_files.py`) or of the run (`run_files.py`).
"""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from autoseg.dataset import CaseFiles, read_channels
from autoseg.errors import AutosegError, DatasetError, GeometryError, LockedError, Problem, UsageError
from autoseg.files import file_sha256
from autoseg.geometry import grids_differ
from autoseg.image_io import Scan, read_header
from autoseg.inference.case_files import ALSO, write_case
from autoseg.inference.clicks import OrganClicks
from autoseg.inference.estimate import Estimate, estimate_cases
from autoseg.inference.journal import FinishedCase, Journal, case_key
from autoseg.inference.label_tables import write_label_tables
from autoseg.inference.overlap import overlap
from autoseg.inference.predictor import PredictedCase, Predictor, find_model_files, load_predictor, with_settings
from autoseg.inference.run_files import CaseStatus, PredictionRun, write_run
from autoseg.progress import tell, track
from autoseg.scan_bytes import display_name
from autoseg.scans_to_predict import find_cases

MOST_VOXELS_READ_AHEAD = 64_000_000  # of a case, all channels: 128 to 256 MB; larger ones have the memory to themselves

log = logging.getLogger("autoseg")


def predict_files(
    inputs: Path | str | Sequence[Path | str],
    model: Path | str,
    output: Path | str,
    *,
    device: str = "auto",
    labels: Sequence[str] = (),
    fold: str | None = None,
    settings: Sequence[str] = (),
    clicks: Mapping[str, Mapping[str, OrganClicks]] | None = None,
    also: Sequence[str] = (),
) -> PredictionRun:
    """Segment a scan or a folder of scans and write a label map for each.

    Args:
        inputs: A scan, a folder of scans, a DICOM series, a `.csv` table of cases, or several of these (`find_cases`).
        model: A `model.safetensors` or a run folder.
        output: Folder for `<case>.nii.gz`, `labels.json`, `.ctbl` and `.tsv`, `statistics.csv`, `preview/<case>.png`,
            `report.html` and `run.json`. Cases that an earlier run finished there, from the same scans, model and
            settings, are kept.
        device: auto, cpu or cuda.
        labels: Names of the organs asked for; none means all.
        fold: Of a run folder, the model of one fold; by default the one trained on all cases, or else
            the folds' average.
        settings: Changes such as "inference.window_overlap=0.25"; only inference may be changed.
        clicks: Points and boxes by case and organ; the other cases and organs go by their text alone.
        also: More files for each case: "uncertainty" (how unsure each voxel is, in per cent), "seg.nrrd" (a
            segmentation of 3D Slicer), "masks" (a file an organ).

    Raises:
        DatasetError: No case could be predicted; the cases' problems are in it.
        LockedError: Another process predicts into the folder.
        AutosegError: The model or an argument cannot be used.
    """
    model, output = Path(model), Path(output)
    unknown = [name for name in also if name not in ALSO]
    if unknown:
        raise UsageError(f"--also {unknown[0]!r:.40}: expected {', '.join(ALSO)}.")
    predictor = with_settings(load_predictor(model, labels=labels, device=device, fold=fold), settings)
    paths = _as_paths(inputs)
    cases, problems = find_cases(paths, channel_names=predictor.channel_names)
    _refuse_output_over_input(cases, output)
    _refuse_clicks_on_nothing(clicks or {}, cases, predictor)
    with _own_folder(output):
        _write_names(predictor, output)
        statuses = [CaseStatus(p.case_id, is_done=False, message=p.message) for p in problems if p.is_error]
        recipe = _describe_recipe(predictor, find_model_files(model, fold=fold), also=also)
        job = _Job(predictor, output, recipe, clicks or {}, tuple(also), Journal(output))
        statuses += _predict_cases(cases, job)
        run = PredictionRun(output=output, cases=tuple(statuses))
        write_run(run, predictor, model=model.name)
    if not any(case.is_done for case in run.cases):
        raise DatasetError(
            f"None of the {len(run.cases)} cases in {', '.join(map(display_name, paths))} could be predicted.",
            problems=[Problem(case.case_id, case.message) for case in run.failed],
        )
    return run


def estimate_files(
    inputs: Path | str | Sequence[Path | str],
    model: Path | str,
    *,
    device: str = "auto",
    labels: Sequence[str] = (),
    fold: str | None = None,
    settings: Sequence[str] = (),
) -> list[Estimate]:
    """Say what `predict_files` would take for each case, with the same arguments; nothing is written.

    Raises:
        AutosegError: As `predict_files`.
    """
    predictor = with_settings(load_predictor(model, labels=labels, device=device, fold=fold), settings)
    cases, problems = find_cases(_as_paths(inputs), channel_names=predictor.channel_names)
    faults = [Estimate(problem.case_id, fault=problem.message) for problem in problems if problem.is_error]
    return [*estimate_cases(predictor, cases), *faults]


def _as_paths(inputs: Path | str | Sequence[Path | str]) -> list[Path]:
    return [Path(inputs)] if isinstance(inputs, str | Path) else [Path(path) for path in inputs]


def read_case(case: CaseFiles) -> tuple[Scan, ...]:
    """Read a case's channels and check that they lie on one grid.

    Raises:
        AutosegError: A file cannot be read, or the channels' grids differ.
    """
    channels = read_channels(case)
    for path, channel in zip(case.image_paths[1:], channels[1:], strict=True):
        names = (case.image_paths[0].name, path.name)
        difference = grids_differ(channels[0].geometry, channel.geometry, names=names)
        if difference is not None:
            raise GeometryError(difference)
    return channels


@dataclass(frozen=True)
class _Job:
    """What is done to every case.

    Attributes:
        predictor: The model.
        output: Folder for the files.
        recipe: All but the scans that decides these files, in words.
        clicks: By case and organ.
        also: Files of `ALSO` that are written too.
        journal: Of the folder.
    """

    predictor: Predictor
    output: Path
    recipe: str
    clicks: Mapping[str, Mapping[str, OrganClicks]]
    also: tuple[str, ...]
    journal: Journal


@dataclass(frozen=True)
class _Read:
    """A case on its way in.

    Attributes:
        key: What goes into it.
        earlier: Its record, if an earlier run finished it.
        channels: Else its scans.
        seconds: What that took.
    """

    key: str
    earlier: FinishedCase | None
    channels: tuple[Scan, ...]
    seconds: float


def _predict_cases(cases: Sequence[CaseFiles], job: _Job) -> Iterator[CaseStatus]:
    """Predict what an earlier run has not finished; each case is written down as it ends."""
    steps = overlap(
        cases,
        read=partial(_read, job=job),
        work=partial(_predict, job=job),
        write=partial(_write, job=job),
        may_read_ahead=_is_small,
        expected=(AutosegError, OSError, MemoryError, torch.OutOfMemoryError),
    )
    for case, done in track(steps, what="predicting", total=len(cases)):
        if isinstance(done, BaseException):
            log.warning("%s: not predicted: %s", case.case_id, done)
            yield CaseStatus(case.case_id, is_done=False, message=str(done))
        else:
            if not done.was_done:
                found = sum(organ.num_voxels > 0 for organ in done.organs)
                tell("%s: %d of %d organs in %.1f s", case.case_id, found, len(done.organs), done.seconds)
            yield done


def _read(case: CaseFiles, *, job: _Job) -> _Read:
    start = time.monotonic()
    key = case_key(case, job.recipe, clicks=job.clicks.get(case.case_id))
    earlier = job.journal.find(case.case_id, key=key)
    channels = read_case(case) if earlier is None else ()
    return _Read(key, earlier, channels, time.monotonic() - start)


def _predict(case: CaseFiles, given: _Read, *, job: _Job) -> tuple[_Read, PredictedCase | None, float]:
    """Predict a case that is not done; the number is the seconds until here."""
    if given.earlier is not None:
        return given, None, 0.0
    start = time.monotonic()
    clicks = job.clicks.get(case.case_id)
    predicted = job.predictor.predict_scans(given.channels, clicks=clicks, with_uncertainty="uncertainty" in job.also)
    return given, predicted, given.seconds + time.monotonic() - start


def _write(case: CaseFiles, made: tuple[_Read, PredictedCase | None, float], *, job: _Job) -> CaseStatus:
    """Write all that belongs to a case, and at last that it is done."""
    given, predicted, seconds = made
    start = time.monotonic()
    done = given.earlier
    if predicted is not None:
        files, organs = write_case(
            job.output, case.case_id, given.channels[0], predicted, predictor=job.predictor, also=job.also
        )
        message = "; ".join(warning for channel in given.channels for warning in channel.warnings)
        seconds += time.monotonic() - start
        done = FinishedCase(case.case_id, given.key, files, seconds, message, organs)
        job.journal.add(done)
    assert done is not None
    return CaseStatus(
        case.case_id,
        is_done=True,
        was_done=given.earlier is not None,
        seconds=done.seconds,
        message=done.message,
        organs=done.organs,
    )


def _is_small(case: CaseFiles) -> bool:
    """Say whether a case may be held beside another one; what cannot be read is small."""
    try:
        sizes = [math.prod(read_header(path).shape_zyx) for path in case.image_paths if path.is_file()]
    except (AutosegError, OSError):
        return True
    return len(sizes) == len(case.image_paths) and sum(sizes) <= MOST_VOXELS_READ_AHEAD


def _describe_recipe(predictor: Predictor, model_files: Sequence[Path], *, also: Sequence[str]) -> str:
    plan = predictor.plans.inference.model_dump(mode="json")
    digests = [file_sha256(path) for path in model_files]
    return json.dumps([version("autoseg"), digests, plan, predictor.organs, predictor.device.type, sorted(also)])


def _refuse_output_over_input(cases: Sequence[CaseFiles], output: Path) -> None:
    paths = [path.resolve() for case in cases for path in case.image_paths]
    folders = {folder for path in paths for folder in ((path, path.parent) if path.is_dir() else (path.parent,))}
    if output.resolve() in folders:
        raise UsageError(f"-o {output}: the scans lie there; inputs are never overwritten. Choose another folder.")


def _refuse_clicks_on_nothing(
    clicks: Mapping[str, Mapping[str, OrganClicks]], cases: Sequence[CaseFiles], predictor: Predictor
) -> None:
    known = [case.case_id for case in cases]
    unknown = [case_id for case_id in clicks if case_id not in known]
    if unknown:
        raise UsageError(f"clicks: there is no case {unknown[0]!r}. Cases: {', '.join(known[:10])}.")
    for case_id, own in clicks.items():
        if not isinstance(own, Mapping):
            raise UsageError(f"clicks: {case_id!r} has {own!r}; give organs by name, {{case: {{organ: OrganClicks}}}}.")
        predictor.check_clicks(own)


@contextmanager
def _own_folder(output: Path) -> Iterator[None]:
    """Hold the output folder for this process alone."""
    with _writing(output):
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(
                f"-o {output}: another process predicts into it. Wait for it, or choose another folder."
            ) from None
    with lock:
        yield


def _write_names(predictor: Predictor, output: Path) -> None:
    """Write names and colours before all else: a folder that cannot be written shows itself before the work."""
    with _writing(output):
        write_label_tables(output, predictor.names)


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"-o {output} cannot be written: {error.strerror or error}. Choose another folder.") from error
