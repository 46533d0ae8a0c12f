"""Peak memory of `autoseg_predict` on one large CT: by number of organs and by number of slices.

    python tests/benchmarks/prediction_memory.py --nnunet -o docs/results/prediction_memory.json

The scan is made here: int16, 512 x 512 px, smooth noise in Hounsfield units. The model has new weights, so that its
label maps are noise too: every organ is everywhere, which is the worst that can be asked of what follows the network.
Each run is a process of its own; its peak is what the system counted as resident.

With `--nnunet` nnU-Net's 3d_fullres predicts the first scan too, as it planned it for this very scan, but with few
channels a stage: it would take hours on a CPU, and what it holds besides maps of all organs is little. Its peak is the
proportional set size of its processes, sampled.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import nnunet_peer
import numpy as np
import torch
from command_line import make_parser
from large_scans import ORGANS, draw_labels
from noise_plans import build_with_noise_text, make_noise_plans
from plan_vs_nnunet import tree_kib
from scipy import ndimage

from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import write_label_map, write_scan
from autoseg.network.weights.model_file import save_model
from autoseg.system.atomic_files import write_json

SIDE = 512
SPACING_ZYX_MM = (1.0, 0.8, 0.8)


def make_model(path: Path, *, num_organs: int, target_zyx_mm: tuple[float, ...]) -> None:
    """Write a model as `autoseg_plan` plans one for a CT on a CPU, with new weights."""
    network = {
        "backbone": "nano",
        "image_size_px": 64,
        "window_rows_px": 256,
        "window_columns_px": 256,
        "refiner_stride": 2,
        "refiner_channels": [16, 32, 64, 128, 256],
    }
    plans = make_noise_plans(
        num_organs,
        network=network,
        inference={"component_filter": [{"organ": f"organ {k}", "min_fraction": 0.1} for k in range(num_organs)]},
        channel={"name": "CT", "normalization": "ct", "clip_low": -150, "clip_high": 250, "std": 90},
        spacing_zyx_mm=target_zyx_mm,
    )
    save_model(build_with_noise_text(plans), plans, path)


def make_scan(path: Path, *, num_slices: int) -> int:
    """Write a scan; returns the bytes of its voxels."""
    rng = np.random.default_rng(0)
    block = ndimage.gaussian_filter(rng.normal(size=(32, SIDE, SIDE)).astype(np.float32), (1, 4, 4))
    block = (block / block.std() * 120).astype(np.int16)
    array = np.concatenate([block] * -(-num_slices // len(block)))[:num_slices]
    write_scan(path, array, geometry=ImageGeometry.from_spacing(array.shape, SPACING_ZYX_MM))
    return int(array.nbytes)


def measure(scan: Path, model: Path, output: Path) -> dict[str, float]:
    """Predict in a process of its own; returns peak resident memory and time."""
    command = [sys.executable, "-m", "autoseg.cli.predict", "-m", str(model), "-i", str(scan), "-o", str(output)]
    start = time.monotonic()
    process = subprocess.Popen([*command, "--device", "cpu"])
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return {"peak_mib": round(usage.ru_maxrss / 1024), "seconds": round(time.monotonic() - start)}


def measure_nnunet(scan: Path, folder: Path, *, num_slices: int, num_organs: int) -> dict[str, Any]:
    """Let nnU-Net plan for one scan and predict it; if it does not survive, its outcome is reported."""
    images, labels = folder / "images", folder / "labels"
    for one in (images, labels):
        one.mkdir(parents=True)
    (images / "scan_0000.nii.gz").symlink_to(scan)
    drawn = draw_labels(np.random.default_rng(0), (num_slices, SIDE, SIDE))
    geometry = ImageGeometry.from_spacing(drawn.shape, SPACING_ZYX_MM)
    write_label_map(labels / "scan.nii.gz", drawn, geometry=geometry, names=ORGANS)
    organs = {k + 1: f"organ {k}" for k in range(num_organs)}
    planned = nnunet_peer.plan(folder / "nnunet", images, labels, organs=organs, num_workers=1)
    configuration = planned["configurations"]["3d_fullres"]
    stages = len(configuration["architecture"]["arch_kwargs"]["features_per_stage"])
    features = [min(4 * 2**stage, 32) for stage in range(stages)]
    nnunet_peer.make_model(folder / "nnunet", planned, num_organs=num_organs, features=features)
    command = nnunet_peer.predict_command(images, folder / "out", device="cpu", workers=1)
    start, peak_kib = time.monotonic(), 0
    process = subprocess.Popen(command, env=nnunet_peer.environment(folder / "nnunet"), stdout=sys.stderr)
    while process.poll() is None:
        peak_kib = max(peak_kib, tree_kib(process.pid))
        time.sleep(0.2)
    facts = {"patch_size": configuration["patch_size"], "features": features, "exit_code": process.returncode}
    survived = process.returncode == 0 and (folder / "out" / "scan.nii.gz").is_file()
    seconds = round(time.monotonic() - start)
    return {**facts, "survived": survived, "peak_mib": round(peak_kib / 1024), "seconds": seconds}


def main() -> None:
    """Measure and write the JSON after each run."""
    parser = make_parser(__doc__)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--organs", type=int, default=14)
    parser.add_argument("--target", type=float, nargs=3, default=SPACING_ZYX_MM, help="z y x, mm")
    parser.add_argument("--nnunet", action="store_true", help="needs nnunetv2")
    arguments = parser.parse_args()
    runs: list[dict[str, Any]] = []
    sizes = [(arguments.slices, arguments.organs), (arguments.slices, 2 * arguments.organs)]
    sizes.append((2 * arguments.slices, arguments.organs))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for num_slices, num_organs in sizes:
            scan, model = folder / f"{num_slices}.nii.gz", folder / f"{num_organs}.safetensors"
            num_bytes = make_scan(scan, num_slices=num_slices)
            make_model(model, num_organs=num_organs, target_zyx_mm=tuple(arguments.target))
            run = measure(scan, model, folder / f"{num_slices}_{num_organs}")
            runs.append({"slices": num_slices, "organs": num_organs, "scan_mib": num_bytes >> 20, **run})
            print(runs[-1], flush=True)
            write_results(arguments, runs, peer=None)
        if arguments.nnunet:
            facts = {"num_slices": arguments.slices, "num_organs": arguments.organs}
            peer = measure_nnunet(folder / f"{arguments.slices}.nii.gz", folder / "peer", **facts)
            print(peer)
            write_results(arguments, runs, peer=peer)


def write_results(arguments: argparse.Namespace, runs: list[dict[str, Any]], *, peer: dict[str, Any] | None) -> None:
    """Write the JSON with what is known so far."""
    content = {
        "side_px": SIDE,
        "spacing_zyx_mm": SPACING_ZYX_MM,
        "target_zyx_mm": arguments.target,
        "runs": runs,
        "nnunet": peer,
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, torch {torch.__version__}",
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
