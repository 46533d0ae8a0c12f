"""What a prediction will take, before it is made: time, memory and disk of each case, from headers and one test batch.

Owns: `estimate_cases`, the table of `--dry-run`, and what a run says of it before it begins.

The network is timed on noise; that a crop to the scan's content may save some of it is not known before a scan is read.
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
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import bytes_in_memory, read_header
from autoseg.preprocessing.slices import BLOCK_BYTES
from autoseg.preprocessing.transform import make_transform
from autoseg.system.out_of_memory import MEMORY_ERRORS, halve

log = logging.getLogger("autoseg")

# Rough; on a CPU the network's time, which is measured, is nearly all. Of 600 slices of 512 x 512 px with label maps of
# noise, the worst there is, this expects 1.3 GiB; 1.46 were taken.
SECONDS_A_VOXEL = 6e-8  # reading, resampling, writing
SECONDS_A_CASE = 0.3  # preview and report
LABEL_BYTES = 1.0  # a voxel; two where values are over 255
BLOCKS_HELD = 4  # of preprocessed slices, while one is made
DISK_BYTES_A_VOXEL = 0.01  # packed label maps; noise would take more
USUAL_BASE_BYTES = 1.3e9  # of a process that has loaded torch and predicted a window
DISK_BYTES_A_CASE = 600_000  # preview and slices for the report


@dataclass(frozen=True)
class Estimate:
    """Of one case.

    Attributes:
        case_id: Its name.
        shape_zyx: Of the scan.
        seconds: On this machine, as it is now.
        memory_bytes: The process's largest resident size.
        disk_bytes: Of all files of the case.
        fault: Why it cannot be predicted, or "".
        note: Why nothing is known of it, or "".
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
        cases: To predict.
        also: Files of `ALSO`; each file more counts as one more label map.
    """
    seconds_a_window = _time_a_window(predictor)
    base = _peak_bytes()
    estimates = []
    for case in cases:
        try:
            one = _estimate(predictor, case, seconds_a_window=seconds_a_window, base_bytes=base)
            estimates.append(_with_more(one, also, num_organs=len(predictor.organs)) if also else one)
        except (AutosegError, OSError) as error:
            estimates.append(Estimate(case.case_id, fault=str(error)))
    return estimates


def tell_time_on_cpu(predictor: Predictor, cases: Sequence[CaseFiles]) -> None:
    """Say how long a prediction will take that nobody has asked a CPU for; a few slices are timed for it."""
    few = {"slices_per_batch": min(predictor.plans.inference.slices_per_batch, torch.get_num_threads())}
    plans = predictor.plans.model_copy(update={"inference": predictor.plans.inference.model_copy(update=few)})
    estimates = estimate_cases(replace(predictor, plans=plans), cases)
    known = [one for one in estimates if not (one.fault or one.note)]
    if known:
        minutes = sum(one.seconds for one in known) / 60
        log.info("predicting %d cases on this CPU will take about %.1f minutes.", len(known), minutes)


def warn_if_disk_is_short(
    predictor: Predictor, cases: Sequence[CaseFiles], output: Path, *, also: Sequence[str] = ()
) -> None:
    """Warn where the files of the cases that are not there yet will hardly find room.

    No more than a warning: what a quota leaves, or a disk that grows, nobody can ask for.
    """
    needed = 0.0
    for case in cases:
        with contextlib.suppress(AutosegError, OSError):  # said when it is read
            if not (output / label_map_name(case.case_id)).exists():
                one = _estimate(predictor, case, seconds_a_window=0.0, base_bytes=0.0)
                needed += (_with_more(one, also, num_organs=len(predictor.organs)) if also else one).disk_bytes
    try:
        free = shutil.disk_usage(output).free
    except OSError:
        return
    if needed > free:
        words = (_size(needed), _size(free))
        log.warning(
            "%s: the cases will take about %s, and %s are free. Free space, or choose another -o.", output, *words
        )


def format_estimates(estimates: Sequence[Estimate]) -> str:
    """Lay estimates out as a table, the sum and the largest last."""
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


def _estimate(predictor: Predictor, case: CaseFiles, *, seconds_a_window: float, base_bytes: float) -> Estimate:
    path = case.image_paths[0]
    if path.is_dir():
        return Estimate(case.case_id, note="a DICOM series; not known before it is read")
    geometry = read_header(path)
    voxels = math.prod(geometry.shape_zyx)
    windows = _count_windows(predictor, geometry)
    scan_bytes = sum(bytes_in_memory(one) for one in dict.fromkeys(case.image_paths))
    label_bytes = voxels * LABEL_BYTES * (2 if max(predictor.names) > 255 else 1)
    return Estimate(
        case.case_id,
        geometry.shape_zyx,
        seconds=windows * seconds_a_window + voxels * SECONDS_A_VOXEL + SECONDS_A_CASE,
        memory_bytes=base_bytes + scan_bytes + label_bytes + BLOCKS_HELD * BLOCK_BYTES,
        disk_bytes=voxels * DISK_BYTES_A_VOXEL + DISK_BYTES_A_CASE,
    )


def _with_more(one: Estimate, also: Sequence[str], *, num_organs: int) -> Estimate:
    voxels = math.prod(one.shape_zyx)
    unsure = voxels if "uncertainty" in also else 0
    on_the_way = voxels * num_organs if "probabilities" in also else 0  # bytes, until they are packed
    files = sum(num_organs if name in ("masks", "probabilities") else 1 for name in also)
    return replace(
        one,
        memory_bytes=one.memory_bytes + unsure,
        disk_bytes=one.disk_bytes + voxels * DISK_BYTES_A_VOXEL * files + on_the_way,
    )


def _count_windows(predictor: Predictor, geometry: ImageGeometry) -> int:
    shape = make_transform(geometry, filled=None, plan=predictor.plans.data).resampled_shape
    return shape[0] * len(tile(shape[1:], plans=predictor.plans).corners)


def _time_a_window(predictor: Predictor) -> float:
    """Predict noise twice, and take the quicker; fewer slices at once where the memory is full."""
    plans = predictor.plans
    window = (plans.network.window_rows_px, plans.network.window_columns_px)
    count = plans.inference.slices_per_batch
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
    except ImportError:  # not on Windows
        return USUAL_BASE_BYTES
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) if sys.platform == "darwin" else 1024.0 * peak


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
