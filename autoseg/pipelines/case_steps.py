"""Reads, predicts and writes each case of a run, while the cases before and after it are at another step.

Owns: `predict_cases`, and how a case that cannot be predicted is handled.
Does not own: the threads (`prefetch.py`), the finished cases (`resume_log.py`), the files (`export/`).
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from autoseg.datasets.dataset import CaseFiles, read_channels
from autoseg.errors import AutosegError, GeometryError, OutputError, printable
from autoseg.export.case_files import remove_case, write_case
from autoseg.export.run_files import CaseStatus
from autoseg.inference.modality import choose_modality, list_alike
from autoseg.inference.organ_prompts import OrganPrompts
from autoseg.inference.predictor import PredictedCase, Predictor
from autoseg.io.geometry import grids_differ, small_shift
from autoseg.io.image import Scan, read_header
from autoseg.io.voxels import describe_odd_values
from autoseg.pipelines.prefetch import FAULTS_OF_AN_ITEM, Prefetch
from autoseg.pipelines.resume_log import FinishedCase, ResumeLog, case_key
from autoseg.system.atomic_files import explain_write_error, fault_of, find_disk_fault
from autoseg.system.process_pool import default_num_workers
from autoseg.system.progress import log_item, track
from autoseg.system.resources import find_cpu_memory_gib

MOST_VOXELS_HELD = 128_000_000  # of several cases, all channels; a larger one has the memory to itself
BYTES_A_VOXEL_HELD = (
    32  # that a machine with a GPU has: scan, label map and what is made of them take some six of these
)
MOST_THREADS = 4

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class Job:
    """The settings for all cases of a run.

    Attributes:
        predictor: The model.
        output: The output folder.
        recipe: Everything that the files of a case depend on, except for its scans, as text.
        point_prompts: The points and boxes by case and organ.
        also: The additional files, from `ALSO`.
        resume_log: The finished cases of the folder.
    """

    predictor: Predictor
    output: Path
    recipe: str
    point_prompts: Mapping[str, Mapping[str, OrganPrompts]]
    also: tuple[str, ...]
    resume_log: ResumeLog


@dataclass(frozen=True)
class _Read:
    """A case that was read.

    Attributes:
        key: The digest of its inputs.
        earlier: Its record, if an earlier run finished it.
        channels: Its scans, if not.
        warnings: The warnings about them.
        seconds: The time that reading took.
    """

    key: str
    earlier: FinishedCase | None
    channels: tuple[Scan, ...]
    warnings: tuple[str, ...]
    seconds: float


def predict_cases(cases: Sequence[CaseFiles], job: Job) -> list[CaseStatus]:
    """Predict the cases that an earlier run has not finished; each is recorded when it is done.

    A case that cannot be predicted, even because of a bug, does not affect the others; its status contains the error.

    Raises:
        OutputError: The disk is full or broken.
    """
    statuses: list[CaseStatus] = []
    with Prefetch(
        cases,
        read=partial(_read, job=job),
        write=partial(_write, job=job),
        on_done=lambda case, done: statuses.append(_report(case, done)),
        threads=_threads(job.predictor.device),
        may_hold=_Room(job.predictor.device).is_enough,
        fatal=(OutputError,),
    ) as prefetch:
        for case, given in track(prefetch, what="predicting", total=len(cases)):
            try:
                start, predicted = time.monotonic(), None
                if given.earlier is None:
                    predicted = job.predictor.find_labels(
                        given.channels,
                        point_prompts=job.point_prompts.get(case.case_id),
                        with_uncertainty="uncertainty" in job.also,
                        scratch=job.output if "probabilities" in job.also else None,
                    )
                prefetch.write(case, (given, predicted, given.seconds + time.monotonic() - start))
            except Exception as error:
                prefetch.fail(case, error)
            del given, predicted  # a scan must not outlive its turn
    return statuses


def _report(case: CaseFiles, done: CaseStatus | Exception) -> CaseStatus:
    """Log the outcome of a case."""
    if isinstance(done, Exception):
        message = _in_words(done)
        log.warning("%s: not predicted: %s", printable(case.case_id), printable(message))
        return CaseStatus(case.case_id, is_done=False, message=message)
    if not done.was_done:
        found = sum(organ.num_voxels > 0 for organ in done.organs)
        log_item("%s: %d of %d organs in %.1f s", printable(case.case_id), found, len(done.organs), done.seconds)
        if done.message:
            log.warning("%s: %s", printable(case.case_id), printable(done.message))
    return done


def _in_words(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"the memory was full ({error}). Close other programs, or use a machine with more memory."
    if isinstance(error, OSError):
        return fault_of(error)
    if isinstance(error, FAULTS_OF_AN_ITEM):
        return str(error)
    return f"{type(error).__name__}: {error} (a bug of autoseg; the log holds the details)"


def _read(case: CaseFiles, *, job: Job) -> _Read:
    start = time.monotonic()
    key = case_key(case, job.recipe, point_prompts=job.point_prompts.get(case.case_id))
    earlier = job.resume_log.find(case.case_id, key=key)
    channels = read_case(case) if earlier is None else ()
    warnings = list_warnings(channels, predictor=job.predictor)
    return _Read(key, earlier, channels, warnings, time.monotonic() - start)


def _write(case: CaseFiles, made: tuple[_Read, PredictedCase | None, float], *, job: Job) -> CaseStatus:
    """Write all files of a case, and then its line in the resume log.

    Raises:
        OutputError: The disk is full or broken.
    """
    given, predicted, seconds = made
    done = given.earlier
    if predicted is not None:
        try:
            done = _write_anew(case, given, job.predictor.finish(predicted), seconds=seconds, job=job)
        except (AutosegError, OSError) as error:
            fault = find_disk_fault(error)
            if fault is None:
                raise
            raise OutputError(f"{case.case_id}: {explain_write_error(fault, job.output)}") from error
    assert done is not None
    return CaseStatus(
        case.case_id,
        is_done=True,
        was_done=given.earlier is not None,
        seconds=done.seconds,
        message=done.message,
        organs=done.organs,
    )


def _write_anew(case: CaseFiles, given: _Read, predicted: PredictedCase, *, seconds: float, job: Job) -> FinishedCase:
    """Write a case's files and its line in the resume log; if one of them fails, all are removed."""
    start = time.monotonic()
    files, organs = write_case(
        job.output,
        case.case_id,
        given.channels[0],
        predicted,
        predictor=job.predictor,
        also=job.also,
        series=case.image_paths[0] if case.image_paths[0].is_dir() else None,
    )
    message = " ".join(given.warnings)
    seconds += time.monotonic() - start
    done = FinishedCase(case.case_id, given.key, files, seconds, message, organs)
    try:
        job.resume_log.add(done)
    except OSError:
        remove_case(job.output, files)
        raise
    return done


class _Room:
    """The limit on the cases in memory."""

    def __init__(self, device: torch.device) -> None:
        """Allow more voxels in memory on a machine with a GPU, which a single reader would keep waiting."""
        self._most = MOST_VOXELS_HELD
        if device.type == "cuda":
            self._most = max(self._most, int(find_cpu_memory_gib() * 2**30) // BYTES_A_VOXEL_HELD)
        self._sizes: dict[str, int] = {}

    def is_enough(self, cases: Sequence[CaseFiles]) -> bool:
        """Return whether all channels of these cases fit into memory."""
        return sum(map(self._size, cases)) <= self._most

    def _size(self, case: CaseFiles) -> int:
        """Count the voxels of a case; one that cannot be read has none."""
        if case.case_id not in self._sizes:
            try:
                sizes = [math.prod(read_header(path).shape_zyx) for path in case.image_paths if path.is_file()]
                complete = len(sizes) == len(case.image_paths)  # the size of a DICOM series is not known yet
                self._sizes[case.case_id] = sum(sizes) if complete else self._most
            except (AutosegError, OSError):
                self._sizes[case.case_id] = 0
        return self._sizes[case.case_id]


def _threads(device: torch.device) -> int:
    """Return the number of threads that read and write: one, or more for a GPU if there are enough cores."""
    return min(MOST_THREADS, max(1, default_num_workers() // 4)) if device.type == "cuda" else 1


def list_warnings(channels: Sequence[Scan], *, predictor: Predictor) -> tuple[str, ...]:
    """Return the warnings about a case's channels, each once: how they were read, and unusual intensities."""
    if not channels:
        return ()
    found = [warning for channel in channels for warning in channel.warnings]
    plan = predictor.plans.data
    modality = choose_modality(channels, plan=plan, given=predictor.modality)
    alike = list_alike(plan, modality)
    if predictor.modality is None and len(alike) > 1:
        found.append(f"taken for {alike[0]}; intensities do not distinguish {' and '.join(alike)}; see --modality.")
    for scan, channel in zip(channels, plan.modalities[modality].channels, strict=False):
        low, high = float(scan.array_zyx.min()), float(scan.array_zyx.max())
        fault = describe_odd_values(low, high, channel=channel.name, is_ct=channel.normalization == "ct")
        found += [] if fault is None else [fault]
    return tuple(dict.fromkeys(found))


def read_case(case: CaseFiles) -> tuple[Scan, ...]:
    """Read a case's channels and check that they are on the same grid; a small shift is a warning.

    Raises:
        AutosegError: A file cannot be read, or the channels' grids differ.
    """
    first, *others = read_channels(case)
    checked = [first]
    for path, channel in zip(case.image_paths[1:], others, strict=True):
        names = (case.image_paths[0].name, path.name)
        difference = grids_differ(first.geometry, channel.geometry, names=names)
        if difference is not None:
            raise GeometryError(difference)
        shift = small_shift(first.geometry, channel.geometry, name=f"channel {path.name}")
        checked.append(channel if shift is None else replace(channel, warnings=(*channel.warnings, shift)))
    return tuple(checked)
