"""How long training waits for data: steps a second and share of time waiting, for 0, 1 and more workers.

    python tests/benchmarks/loading.py --seconds 10 -o docs/results/loading_cpu.json
    python tests/benchmarks/loading.py --device cuda -o docs/results/loading_cuda.json

Two synthetic datasets, preprocessed: "ct", 512 x 512 px and 14 organs in batches of 16 slices, and "hippocampus", 64 x
48 px and two organs in batches of 32; each slice comes with four neighbors. With --device cuda the steps are real ones
of the tiny network (less than two minutes on a machine with 16 cores). Without, they are SIMULATED: a sleep of 130 ms,
about what a step takes on a GPU; random changes that are made on the device are then left out, as a GPU's work.

What a batch costs one core is measured first, in seconds that the process computes.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg.config.plans import Plans
from autoseg.io.geometry import ImageGeometry
from autoseg.preprocessing.pipeline import PreprocessedCase
from autoseg.preprocessing.store import CaseStore
from autoseg.preprocessing.transform import CaseTransform
from autoseg.system.resources import find_num_cores
from autoseg.training.data.device_augmentation import make_changes
from autoseg.training.data.loading import MOST_WORKERS, batches_ahead
from autoseg.training.data.sampler import Batch, SliceSampler
from autoseg.training.gradients import move
from autoseg.training.state import new_state
from autoseg.training.step import train_step

SIMULATED_STEP_SECONDS = 0.13
WARM_UP_STEPS = 3
# organs, cases, slices of each, rows and columns, slices a step
DATASETS = {"ct": (14, 4, 40, (512, 512), 16), "hippocampus": (2, 20, 35, (64, 48), 32)}
ALL_IN_MEMORY = 2**40
Step = Callable[[Batch], object]


def make_plans(name: str, *, where: str) -> Plans:
    """Make the plan that such a dataset gets for a large GPU, but for the tiny backbone."""
    num_organs, _, _, (rows, columns), batch_slices = DATASETS[name]
    organs = [{"name": f"organ {k}", "value": k + 1, "sentences": [f"number {k}"]} for k in range(num_organs)]
    return Plans.model_validate(
        {
            "dataset_name": name,
            "device": {"kind": "cuda", "memory_gib": 80},
            "data": {
                "channels": [{"name": "CT", "normalization": "zscore"}],
                "organs": organs,
                "target_spacing_zyx_mm": [2.5, 0.8, 0.8],
                "slice_axis": "z",
            },
            "network": {
                "backbone": "tiny",
                "feature_channels": 256,
                "image_size_px": max(128, rows),
                "window_rows_px": rows,
                "window_columns_px": columns,
                "refiner_channels": [32, 64, 128, 256],
                "context_slices": 2,
            },
            "training": {
                "batch_slices": batch_slices,
                "learning_rate": 1e-6,  # without a warm-up the network would diverge at more
                "augmentation": {"mirror_axes": ["slice", "row", "column"], "run_on": where},
            },
            "inference": {},
        }
    )


def make_case(name: str, *, seed: int) -> PreprocessedCase:
    """Make balls in a body of noise, whole numbers of Hounsfield units as a scanner gives them, then standardised."""
    num_organs, _, num_slices, (rows, columns), _ = DATASETS[name]
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-0.5 : 0.5 : rows * 1j, -0.5 : 0.5 : columns * 1j]
    is_body = (y / 0.4) ** 2 + (x / 0.45) ** 2 < 1
    labels = np.zeros((num_slices, rows, columns), np.uint8)
    image = np.where(is_body, 40.0, -1000.0) + rng.normal(0, 20, labels.shape) * is_body
    for organ in range(num_organs):
        middle, size = rng.uniform([0.2, -0.3, -0.3], [0.8, 0.3, 0.3]), rng.uniform(0.05, 0.15)
        z = np.linspace(0, 1, num_slices)[:, None, None]
        is_in = ((z - middle[0]) / 3) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2 < size**2
        labels[is_in], image[is_in] = organ + 1, 15 * organ - 50 + rng.normal(0, 20, int(is_in.sum()))
    transform = CaseTransform(
        original=ImageGeometry.from_spacing(labels.shape, (2.5, 0.8, 0.8)),
        crop_box=tuple((0, size) for size in labels.shape),
        slice_axis="z",
        resampled_shape=labels.shape,
    )
    standardised = (np.round(image.clip(-1024, 400)) - 80) / 150
    return PreprocessedCase(standardised[None].astype(np.float32), labels, transform)


def make_sampler(store: CaseStore, plans: Plans, *, cache_bytes: int) -> SliceSampler:
    """Make the sampler that training has."""
    return SliceSampler(store, store.case_ids(), plans=plans, cache_bytes=cache_bytes)


def measure_batch(sampler: SliceSampler, *, repeats: int) -> float:
    """Return the milliseconds of one core that a batch takes, the least of some."""
    spent = []
    for step in range(repeats):
        start = time.process_time()
        sampler.make_batch(step)
        spent.append(time.process_time() - start)
    return round(1000 * min(spent), 1)


def measure_changes(sampler: SliceSampler, device: torch.device, *, repeats: int) -> float:
    """Return the milliseconds that a GPU takes for the random changes of a batch, the median of some."""
    spent = []
    for step in range(1 + repeats):
        batch = move(sampler.make_batch(step), device)
        torch.cuda.synchronize()
        start = time.monotonic()
        make_changes(batch)
        torch.cuda.synchronize()
        spent.append(time.monotonic() - start)
    return round(1000 * float(np.median(spent[1:])), 1)


def run(sampler: SliceSampler, step: Step, *, device: torch.device, seconds: float, num_workers: int) -> dict[str, Any]:
    """Train, or act as if, for some seconds."""
    waited, count = 0.0, 0
    with batches_ahead(sampler, first_step=0, device=device, num_workers=num_workers) as batches:
        for _ in range(WARM_UP_STEPS):
            batch = next(batches)
            step(batch)
        is_pinned = device.type == "cuda" and batch.images.is_pinned()
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            start = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - start
            step(batch)
            count += 1
        passed = time.monotonic() - begin
    return {
        "steps": count,
        "steps_a_second": round(count / passed, 2),
        "share_waiting": round(waited / passed, 3),
        "is_pinned": is_pinned,
    }


def measure_dataset(name: str, folder: Path, *, device: torch.device, seconds: float) -> Iterator[dict[str, Any]]:
    """Measure one dataset in all settings."""
    plans = {where: make_plans(name, where=where) for where in ("cpu", "device")}
    store = CaseStore(folder / name, data_hash=plans["cpu"].data.hash())
    for number in range(DATASETS[name][1]):
        store.write(f"case_{number}", make_case(name, seed=number), plans["cpu"].data.hash())
    samplers = {
        (where, kept): make_sampler(store, plans[where], cache_bytes=ALL_IN_MEMORY if kept == "memory" else 0)
        for where in ("cpu", "device")
        for kept in ("memory", "store")
    }
    for (where, kept), sampler in samplers.items():
        yield {
            "dataset": name,
            "random_changes": where,
            "cases_in": kept,
            "core_ms_a_batch": measure_batch(sampler, repeats=3),
        }
    step: Step = lambda _batch: time.sleep(SIMULATED_STEP_SECONDS)  # noqa: E731
    if device.type == "cuda":
        yield {
            "dataset": name,
            "device_ms_for_changes": measure_changes(samplers["device", "memory"], device, repeats=5),
        }
        state = new_state(plans["cpu"], device=device, needs_scaler=False, offline=True)
        state.network.train()
        step = partial(train_step, state, plans=plans["cpu"])
    many = max(2, min(find_num_cores() - 1, MOST_WORKERS))
    for where, kept, num_workers in [
        *(("cpu", "memory", workers) for workers in (0, 1, many)),
        ("cpu", "store", many),
        *(("device", "memory", workers) for workers in (1, many)),
        ("device", "store", many),
    ]:
        result = run(samplers[where, kept], step, device=device, seconds=seconds, num_workers=num_workers)
        yield {"dataset": name, "random_changes": where, "cases_in": kept, "workers": num_workers, **result}


def main() -> None:
    """Measure all and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu: steps are simulated")
    parser.add_argument("--seconds", type=float, default=4, help="of each setting")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    is_real = device.type == "cuda"
    if not is_real:
        torch.set_num_threads(1)
    results = []
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        for dataset in arguments.datasets:
            for result in measure_dataset(dataset, Path(name), device=device, seconds=arguments.seconds):
                results.append(result)
                print(f"{time.monotonic() - begin:5.0f} s", result, flush=True)
    content = {
        "date": date.today().isoformat(),
        "machine": f"{torch.cuda.get_device_name() if is_real else 'no GPU'}, {platform.machine()}, torch "
        f"{torch.__version__}",
        "cores": find_num_cores(),
        "load_of_1_5_and_15_minutes": [round(load, 1) for load in os.getloadavg()],
        "step": "of the tiny network" if is_real else f"SIMULATED, a sleep of {SIMULATED_STEP_SECONDS:g} s",
        "seconds_a_setting": arguments.seconds,
        "results": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
