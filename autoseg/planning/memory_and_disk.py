"""Estimates the memory of a worker process and the disk space that planning needs.

Owns: the estimates, from headers and facts alone, and the warning if the disk has too little space.
Does not own: the number of workers that follows (`system/process_pool.py`).

Measured by `benchmarks/planning_memory.py` in November 2026 on scans of 13 and 33 million voxels, int16, float32
and float64, packed or not: reading and measuring took 12 to 16 bytes a voxel of a case with one channel (19 where all
of the scan is organ), fewer with several; preprocessing 8 to 9 bytes a voxel of the file and 11 to 14 of the result.
"""

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from autoseg.config.plans import DataPlan
from autoseg.datasets.dataset import CaseFiles
from autoseg.errors import AutosegError
from autoseg.io.image import read_header
from autoseg.planning.fingerprint.case_statistics import CaseStatistics

log = logging.getLogger("autoseg")

BYTES_A_WORKER = 64 << 20  # of a forked process, before it has read anything
BYTES_TO_SCAN_A_VOXEL = 20
BYTES_TO_PREPROCESS_A_VOXEL = 10
BYTES_TO_PREPROCESS_A_RESULT_VOXEL = 13
STORED_BYTES_A_VOXEL = 1.2  # at least: float32 packed to 0.3; noise would take 0.85
MOST_HEADERS = 32  # of the largest files, among which the largest scan is


def bytes_to_scan(cases: Sequence[CaseFiles]) -> float:
    """Estimate the memory that measuring the largest case takes; only headers are read."""
    largest = sorted(cases, key=_file_bytes, reverse=True)[:MOST_HEADERS]
    return BYTES_A_WORKER + BYTES_TO_SCAN_A_VOXEL * max(map(_num_voxels, largest), default=0)


def bytes_to_preprocess(cases: Sequence[CaseStatistics], plan: DataPlan) -> float:
    """Estimate the memory that preprocessing the largest case takes."""

    def of_one(case: CaseStatistics) -> float:
        voxels = len(case.channels) * math.prod(case.size_zyx)
        return BYTES_TO_PREPROCESS_A_VOXEL * voxels + BYTES_TO_PREPROCESS_A_RESULT_VOXEL * _result_voxels(case, plan)

    return BYTES_A_WORKER + max(map(of_one, cases), default=0.0)


def warn_if_disk_is_short(folder: Path, cases: Sequence[CaseStatistics], plan: DataPlan) -> None:
    """Warn if the disk has too little space for the cases that are not preprocessed yet.

    This is only a warning, since quotas and disks that grow are unknown.
    """
    due = [case for case in cases if not (folder / case.case_id).is_dir()]
    needed = STORED_BYTES_A_VOXEL * sum(_result_voxels(case, plan) for case in due)
    try:
        free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    except OSError:
        return
    if needed > free:
        log.warning(
            "%s: preprocessing %d cases takes at least %.1f GiB, and %.1f GiB are free. Free space, or stop and choose "
            "another -o.",
            folder,
            len(due),
            needed / 2**30,
            free / 2**30,
        )


def _result_voxels(case: CaseStatistics, plan: DataPlan) -> float:
    sizes = zip(case.cropped_size_zyx, case.spacing_zyx_mm, plan.target_spacing_zyx_mm, strict=True)
    return len(case.channels) * math.prod(size * old / new for size, old, new in sizes)


def _num_voxels(case: CaseFiles) -> int:
    try:
        return sum(math.prod(read_header(path).shape_zyx) for path in case.image_paths)
    except (AutosegError, OSError):
        return 0  # what is wrong with it is said when it is read


def _file_bytes(case: CaseFiles) -> int:
    try:
        return sum(path.stat().st_size for path in case.image_paths)
    except OSError:
        return 0
