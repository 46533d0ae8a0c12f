"""Thousands of small scans in one run, killed twice on the way: is anything lost, and does memory grow?

    python tests/benchmarks/many_scans.py -o docs/results/many_scans.json

The scans are noise, the network is tiny and new. The run is ended by SIGKILL at a third and at two thirds, and begun
again with the same command; its label maps are compared with those of single cases predicted by themselves.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from command_line import make_parser
from noise_plans import build_with_noise_text, make_noise_plans

from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import write_scan
from autoseg.network.weights.model_file import save_model
from autoseg.pipelines.resume_log import LOG_NAME
from autoseg.system.atomic_files import file_sha256, read_json, write_json

SHAPE_ZYX = (5, 32, 32)
WARM_CASES = 200  # after which memory should have found its level
COMPARED_EVERY = 97  # cases, one of which is predicted by itself as well


TINY_NETWORK = {
    "backbone": "nano",
    "image_size_px": 32,
    "window_rows_px": 32,
    "window_columns_px": 32,
    "feature_channels": 16,
    "refiner_channels": [4, 16, 16],
}


def count_done(output: Path) -> int:
    """Count the cases that are written down as done."""
    path = output / LOG_NAME
    return path.read_bytes().count(b"\n") if path.exists() else 0


def resident_mib(pid: int) -> float:
    """Return the memory of a process that is resident now."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def run(command: list[str], output: Path, *, kill_at: int | None, num_scans: int) -> dict[str, float]:
    """Run the command until it ends or is killed; returns time, and memory after 200 cases and at its end."""
    start, before = time.monotonic(), count_done(output)
    facts: dict[str, float] = {}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        done = count_done(output)
        if done - before >= WARM_CASES and "warm_mib" not in facts:
            facts["warm_mib"] = round(resident_mib(process.pid), 1)
        if done < num_scans and process.poll() is None:
            facts["last_mib"] = round(resident_mib(process.pid), 1) or facts.get("last_mib", 0.0)
        if kill_at is not None and done >= kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.05)
    return {"cases": count_done(output) - before, "seconds": round(time.monotonic() - start, 1), **facts}


def main() -> None:
    """Make the scans, run, kill, run again, compare, and write the JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--scans", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        channel = {"name": "MRI", "normalization": "zscore"}
        plans = make_noise_plans(2, network=TINY_NETWORK, inference={"slices_per_batch": 8}, channel=channel)
        save_model(build_with_noise_text(plans), plans, folder / "model.safetensors")
        rng = np.random.default_rng(0)
        geometry = ImageGeometry.from_spacing(SHAPE_ZYX, (3.0, 1.0, 1.0))
        names = [f"scan_{number:05d}" for number in range(arguments.scans)]
        for case in names:
            array = rng.normal(size=SHAPE_ZYX).astype(np.float32)
            write_scan(folder / "scans" / f"{case}.nii.gz", array, geometry=geometry)
        command = [sys.executable, "-m", "autoseg.cli.predict", "-m", str(folder / "model.safetensors")]
        whole = [*command, "-i", str(folder / "scans"), "-o", str(folder / "out"), "--device", "cpu"]
        kills = (arguments.scans // 3, 2 * arguments.scans // 3, None)
        runs = [run(whole, folder / "out", kill_at=kill, num_scans=arguments.scans) for kill in kills]
        lost = [case for case in names if not (folder / "out" / f"{case}.nii.gz").is_file()]
        states = read_json(folder / "out" / "run.json")["cases"]
        compared = names[::COMPARED_EVERY]
        alone = [str(folder / "scans" / f"{case}.nii.gz") for case in compared]
        subprocess.run([*command, "-i", *alone, "-o", str(folder / "alone"), "--device", "cpu"], check=True)
        differ = [
            case
            for case in compared
            if file_sha256(folder / "out" / f"{case}.nii.gz") != file_sha256(folder / "alone" / f"{case}.nii.gz")
        ]
        left = [path.name for path in (folder / "out").rglob(".writing-*")]
    content = {
        "scans": arguments.scans,
        "runs": runs,
        "cases_in_run_json": len(states),
        "done_in_run_json": sum(state["is_done"] for state in states),
        "done_by_earlier_runs": sum(state["was_done"] for state in states),
        "lost": lost,
        "compared": len(compared),
        "differ": differ,
        "left_over_temporary_files": left,
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, torch {torch.__version__}",
    }
    print(json.dumps(content, indent=2))
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
