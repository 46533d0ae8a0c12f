"""Estimates what a prediction will take before it is made: time, memory and disk space per case.

Owns: `estimate_cases`, the table of `--dry-run`, and the warnings that a run gives before it begins.
Does not own: the prediction itself (`predict.py`).

Only headers are read, and the network is timed on one batch of noise. A crop to the content of a scan may make it
faster, which only reading the scan would show.
"""

import contextlib
import logging
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from autoseg.datasets.dataset import CaseFiles
from autoseg.errors import AutosegError, printable
from autoseg.export.case_files import label_map_name
from autoseg.inference.cpu_threads import side_by_side
from autoseg.inference.predictor import Predictor
from autoseg.inference.sliding_window import predict_slices
from autoseg.inference.tiles import tile
from autoseg.io.image import bytes_in_memory, read_header
from autoseg.preprocessing.slices import BLOCK_BYTES
from autoseg.preprocessing.transform import make_transform
from autoseg.system.out_of_memory import MEMORY_ERRORS, halve

log = logging.getLogger("autoseg")

# Rough values; on a CPU the network's time, which is measured, is nearly all. For 600 slices of 512 x 512 px with label
# maps of noise, the worst case, the estimate is 1.3 GiB of memory, and 1.46 were used.
SECONDS_PER_VOXEL = 6e-8  # reading, resampling, writing
SECONDS_PER_CASE = 0.3  # preview and report
BLOCKS_IN_MEMORY = 4  # of preprocessed slices
DISK_BYTES_PER_VOXEL = 0.01  # of a compressed label map; noise would take more
DISK_BYTES_PER_CASE = 600_000  # preview and slices for the report
PROCESS_BYTES = 1.3e9  # of a process that has loaded torch and predicted a window, where the system does not say


@dataclass(frozen=True)
class Estimate:
    """The estimate for one case.

    Attributes:
        case_id: The name of the case.
        shape_zyx: The shape of the scan.
        seconds: The time on this machine as it is now.
        memory_bytes: The largest resident size of the process.
        disk_bytes: The size of all files written for the case.
        fault: Why the case cannot be predicted, or "".
        note: Why nothing is known of the case, or "".
    """

    case_id: str
    shape_zyx: tuple[int, int, int] = (0, 0, 0)
    seconds: float = 0.0
    memory_bytes: float = 0.0
    disk_bytes: float = 0.0
    fault: str = ""
    note: str = ""


def estimate_cases(predictor: Predictor, cases: Sequence[CaseFiles], *, also: Sequence[str] = ()) -> list[Estimate]:
    """Estimate every case; only headers are read, and nothing is written.

    Args:
        predictor: The model.
        cases: The cases to predict.
        also: The additional files per case, from `ALSO`.
    """
    seconds_per_window, process_bytes = _time_per_window(predictor), _peak_bytes()
    estimates = []
    for case in cases:
        try:
            one = _estimate(predictor, case, also=also, seconds_per_window=seconds_per_window)
            estimates.append(replace(one, memory_bytes=one.memory_bytes + process_bytes))
        except (AutosegError, OSError) as error:
            estimates.append(Estimate(case.case_id, fault=str(error)))
    return estimates


def log_time_on_cpu(predictor: Predictor, cases: Sequence[CaseFiles]) -> None:
    """Log how long a prediction will take on a CPU that nobody asked for; a few slices are timed for it."""
    few = {"slices_per_batch": min(predictor.plans.inference.slices_per_batch, torch.get_num_threads())}
    plans = predictor.plans.model_copy(update={"inference": predictor.plans.inference.model_copy(update=few)})
    known = [one for one in estimate_cases(replace(predictor, plans=plans), cases) if not (one.fault or one.note)]
    if known:
        minutes = sum(one.seconds for one in known) / 60
        log.info("predicting %d cases on this CPU will take about %.1f minutes.", len(known), minutes)


def warn_if_disk_is_short(
    predictor: Predictor, cases: Sequence[CaseFiles], output: Path, *, also: Sequence[str] = ()
) -> None:
    """Warn where the free space of the disk is less than the files that are still to be written will take."""
    needed = 0.0
    for case in cases:
        with contextlib.suppress(AutosegError, OSError):  # reported when the case is read
            if not (output / label_map_name(case.case_id)).exists():
                needed += _estimate(predictor, case, also=also).disk_bytes
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(output).free
        if needed > free:
            log.warning(
                "%s: the cases will take about %s, and %s are free. Free space, or choose another -o.",
                output,
                _size(needed),
                _size(free),
            )


def format_estimates(estimates: Sequence[Estimate]) -> str:
    """Return the estimates as a table; the last line has the sums, and the largest memory."""
    rows = [("case", "voxels (x, y, z)", "minutes", "memory", "disk")]
    for one in estimates:
        shape = " x ".join(str(size) for size in reversed(one.shape_zyx))
        facts = (shape, f"{one.seconds / 60:.1f}", _size(one.memory_bytes), _size(one.disk_bytes))
        words = printable(one.fault or one.note)
        rows.append((printable(one.case_id), *((words, "", "", "") if words else facts)))
    good = [one for one in estimates if not (one.fault or one.note)]
    total = (f"{sum(one.seconds for one in good) / 60:.1f}", _size(max((one.memory_bytes for one in good), default=0)))
    rows.append((f"{len(good)} cases", "", *total, _size(sum(one.disk_bytes for one in good))))
    widths = [max(len(row[column]) for row in rows if column != 1 or row[2]) for column in range(5)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _estimate(
    predictor: Predictor, case: CaseFiles, *, also: Sequence[str] = (), seconds_per_window: float = 0.0
) -> Estimate:
    """Estimate one case, without the memory that the process takes for itself."""
    if case.image_paths[0].is_dir():
        return Estimate(case.case_id, note="a DICOM series; not known before it is read")
    geometry = read_header(case.image_paths[0])
    shape = make_transform(geometry, filled=None, plan=predictor.plans.data).resampled_shape
    num_windows = shape[0] * len(tile(shape[1:], plans=predictor.plans).corners)
    voxels, num_organs = math.prod(geometry.shape_zyx), len(predictor.organs)
    scan_bytes = sum(bytes_in_memory(path) for path in dict.fromkeys(case.image_paths))
    label_bytes = voxels * (2 if max(predictor.names) > 255 else 1) + (voxels if "uncertainty" in also else 0)
    num_files = 1 + sum(num_organs if name in ("masks", "probabilities") else 1 for name in also)
    uncompressed = voxels * num_organs if "probabilities" in also else 0  # until the case is finished
    return Estimate(
        case.case_id,
        geometry.shape_zyx,
        seconds=num_windows * seconds_per_window + voxels * SECONDS_PER_VOXEL + SECONDS_PER_CASE,
        memory_bytes=scan_bytes + label_bytes + BLOCKS_IN_MEMORY * BLOCK_BYTES,
        disk_bytes=voxels * DISK_BYTES_PER_VOXEL * num_files + DISK_BYTES_PER_CASE + uncompressed,
    )


def _time_per_window(predictor: Predictor) -> float:
    """Return the seconds per window, the better of two tries on noise; fewer slices where the memory is full."""
    plans = predictor.plans
    count = plans.inference.slices_per_batch
    window = (plans.network.window_rows_px, plans.network.window_columns_px)
    while True:
        image = np.random.default_rng(0).normal(size=(len(plans.data.channels), count, *window)).astype(np.float32)
        try:
            return min(_predict_seconds(predictor, image) for _ in range(2)) / count
        except MEMORY_ERRORS as error:
            count = halve(count, error, device=predictor.device)


def _predict_seconds(predictor: Predictor, image: np.ndarray) -> float:
    start = time.monotonic()
    with side_by_side(predictor.device) as cores:
        maps = predict_slices(
            predictor.networks,
            image,
            plans=predictor.plans,
            organs=predictor.organs,
            device=predictor.device,
            cores=cores,
        )
        for _map in maps:
            pass
    return time.monotonic() - start


def _peak_bytes() -> float:
    try:
        import resource
    except ImportError:  # on Windows
        return PROCESS_BYTES
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) if sys.platform == "darwin" else 1024.0 * peak


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
