"""Measures on a CPU what docs/guides/many_gpus.md calculates the cost of 10,000 scans and many ranks from.

    python tests/benchmarks/ranks_arithmetic.py --scans SCAN .. -o docs/results/ranks_arithmetic.json

* A synthetic CT of 512 x 512 x 240 voxels with 14 organs: its files, the seconds that one core computes to measure and
  to preprocess it, its place in the store, what is kept of it in the cache.
* Scans of patients, if any are given: the bytes a voxel takes in the store, which of synthetic ones are too few.
* A store of many cases, which are links to that one: seconds and memory to begin training on it.
* The weights of each backbone, which is what ranks exchange in a step, and the size of a training state.
* Gloo between two processes of this machine: seconds to add up the gradients of the nano backbone.
"""

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import make_parser
from large_scans import write_case

import autoseg
from autoseg.config.overrides import apply_settings
from autoseg.config.plans import Plans, read_plans
from autoseg.datasets.dataset import read_dataset
from autoseg.io.image import read_scan
from autoseg.network.build import build_network
from autoseg.pipelines.preprocess import preprocess_dataset
from autoseg.planning.fingerprint.measure_case import scan_case
from autoseg.preprocessing.array_file import pack_array
from autoseg.preprocessing.store import CaseStore
from autoseg.system.atomic_files import write_json
from autoseg.training.checkpointing.checkpoints import save_state
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.state import new_state

SHAPE_ZYX, SPACING_ZYX_MM = (240, 512, 512), (2.5, 0.78, 0.78)
NUM_CASES = 2000
NUM_EXCHANGES = 20
BACKBONES = ("nano", "tiny", "small", "base_plus", "large")
EXCHANGE = """
import sys, time, torch
from torch import distributed
rank, port, values, times = map(int, sys.argv[1:])
torch.set_num_threads(1)
store = distributed.TCPStore("127.0.0.1", port, 2, rank == 0)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
vector = torch.ones(values)
distributed.all_reduce(vector)
start = time.perf_counter()
for _ in range(times):
    distributed.all_reduce(vector)
print((time.perf_counter() - start) / times)
distributed.destroy_process_group()
"""


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return the seconds by the clock, those that this process computed, and the result."""
    start, computed = time.perf_counter(), time.process_time()
    result = work()
    return round(time.perf_counter() - start, 2), round(time.process_time() - computed, 2), result


def measure_scan(folder: Path) -> tuple[dict[str, Any], Plans]:
    """Plan two large scans, and measure the steps of one."""
    for number in range(2):
        name = f"case_{number}"
        for part in ("imagesTr", "labelsTr"):
            (folder / "data" / part).mkdir(parents=True, exist_ok=True)
        image = folder / "data" / "imagesTr" / f"{name}_0000.nii.gz"
        label = folder / "data" / "labelsTr" / f"{name}.nii.gz"
        write_case(image, label, shape_zyx=SHAPE_ZYX, spacing_zyx_mm=SPACING_ZYX_MM, seed=number)
    labels = {"background": 0, **{f"organ {number}": number for number in range(1, 15)}}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "data" / "dataset.json").write_text(json.dumps(content))
    plans = autoseg.plan(folder / "data", folder / "run", device="cuda", memory_gib=75, num_workers=1)
    dataset = read_dataset(folder / "data")
    case = dataset.cases[0]
    scanned, scan_computed, _ = timed(lambda: scan_case(case, dataset=dataset))
    store = folder / "again"
    preprocessed, preprocess_computed, _ = timed(
        lambda: preprocess_dataset([case], plan=plans.data, store_folder=store, num_workers=0)
    )
    files = {path.name: path.stat().st_size for path in (store / "case_0").iterdir()}
    return {
        "shape_zyx": SHAPE_ZYX,
        "image_file_bytes": case.image_paths[0].stat().st_size,
        "measure_seconds": scanned,
        "measure_core_seconds": scan_computed,
        "preprocess_seconds": preprocessed,
        "preprocess_core_seconds": preprocess_computed,
        "stored_shape": CaseStore(store).shape("case_0"),
        "stored_bytes": files,
        "cache_bytes_a_case": (folder / "run" / "dataset_cache.jsonl").stat().st_size // 2,
    }, plans


def measure_many_cases(folder: Path, plans: Plans) -> dict[str, Any]:
    """Begin with a store of many cases, none of them kept in memory."""
    source, target = folder / "run" / "preprocessed" / "case_0", folder / "many"
    for number in range(NUM_CASES):
        case = target / f"case_{number:05d}"
        case.mkdir(parents=True)
        for path in source.iterdir():
            os.link(path, case / path.name)
    store = CaseStore(target, data_hash=plans.data.hash())
    before = resident_kib()
    seconds, _, sampler = timed(lambda: SliceSampler(store, store.case_ids(), plans=plans, cache_bytes=0))
    grown = resident_kib() - before
    draw, _, _ = timed(lambda: [sampler.draws.cases_of(step) for step in range(100)])
    return {
        "cases": NUM_CASES,
        "seconds_to_begin": seconds,
        "memory_kib_a_case": round(grown / NUM_CASES, 1),
        "files_open": len(list(Path("/proc/self/fd").iterdir())),
        "draw_ms_a_step": round(10 * draw, 2),
    }


def resident_kib() -> int:
    """Return the memory that this process has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def measure_stored_voxels(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Pack scans as the store does, on their own grid and normalized, and say how many bytes a voxel takes."""
    found = []
    for path in paths:
        voxels = read_scan(path).array_zyx.astype(np.float32)
        stored = len(pack_array(((voxels - voxels.mean()) / voxels.std())[None]))
        found.append(
            {
                "scan": path.name,
                "shape_zyx": voxels.shape,
                "file_bytes_a_voxel": round(path.stat().st_size / voxels.size, 2),
                "stored_bytes_a_voxel": round(stored / voxels.size, 2),
            }
        )
    return found


def count_weights(folder: Path, plans: Plans) -> list[dict[str, Any]]:
    """Count the weights that training moves, and save a state of the smaller networks."""
    found = []
    for backbone in BACKBONES:
        changed = apply_settings(plans, [f"network.backbone={backbone}"])
        row: dict[str, Any] = {"backbone": backbone}
        weights = sum(one.numel() for one in build_network(changed, offline=True).parameters() if one.requires_grad)
        row |= {"weights": weights, "bytes_exchanged_a_step": 4 * weights}
        if backbone in ("nano", "tiny"):
            state = new_state(changed, device=torch.device("cpu"))
            for optimizer in state.optimizers:
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        parameter.grad = torch.zeros_like(parameter)
                optimizer.step()
            save_state(state, changed, folder / "resume.pt")
            row["state_bytes"] = (folder / "resume.pt").stat().st_size
        found.append(row)
    return found


def measure_exchange(values: int) -> float:
    """Return the milliseconds in which two processes add up a vector by gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", EXCHANGE, *map(str, (rank, port, values, NUM_EXCHANGES))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    return round(1000 * max(float(process.communicate(timeout=300)[0]) for process in processes), 1)


def main() -> None:
    """Run it and write the JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--scans", type=Path, nargs="*", default=[], help="scans of patients")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        scan, plans = measure_scan(Path(name))
        print(json.dumps(scan), flush=True)
        many = measure_many_cases(Path(name), read_plans(Path(name) / "run" / "plans.json"))
        print(json.dumps(many), flush=True)
        weights = count_weights(Path(name), plans)
    report = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "scan": scan,
        "scans_of_patients": measure_stored_voxels(arguments.scans),
        "planned": {
            "backbone": plans.network.backbone,
            "window_px": [plans.network.window_rows_px, plans.network.window_columns_px],
            "batch_slices": plans.training.batch_slices,
            "context_slices": plans.network.context_slices,
        },
        "many_cases": many,
        "weights": weights,
        "gloo_ms_for_nano_gradients": measure_exchange(weights[0]["weights"]),
    }
    write_json(arguments.output, report)
    print(json.dumps({key: report[key] for key in ("planned", "weights", "gloo_ms_for_nano_gradients")}, indent=2))


if __name__ == "__main__":
    main()
