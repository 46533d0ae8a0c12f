"""Prediction of 512 x 512 px CT with 14 organs on a GPU, from file to file, beside nnU-Net's 3d_fullres.

    python tests/benchmarks/predict_on_cuda.py -o docs/results/predict_cuda.json

Scans are made here, of differing spacing. autoseg plans for eight small ones with the tiny backbone and trains for a
minute, so that its label maps are organs; nnU-Net plans for the large ones and predicts with new weights that make
empty maps, which costs it least. Both commands then take the same large scans, from start-up to the last file, in turn.
Once more autoseg runs under torch's profiler, which says for how long the GPU was at work.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import make_parser
from large_scans import ORGANS, write_case
from nnunet_peer import environment, make_model, plan, predict_command

import autoseg
from autoseg.io.image import read_labels

SPACINGS_ZYX_MM = [(2.5, 0.78, 0.78), (2.5, 0.8, 0.8), (2.4, 0.82, 0.82), (2.6, 0.75, 0.75)]
NO_MIRRORING = "inference.mirror_axes=[]"  # as nnU-Net is run here


def make_scans(images: Path, labels: Path, *, count: int, num_slices: int, side: int, seed: int) -> None:
    """Write scans and their label maps, a process a core."""
    for folder in (images, labels):
        folder.mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        jobs = [
            pool.submit(
                write_case,
                images / f"case_{number:03d}_0000.nii.gz",
                labels / f"case_{number:03d}.nii.gz",
                shape_zyx=(num_slices, side, side),
                spacing_zyx_mm=SPACINGS_ZYX_MM[number % len(SPACINGS_ZYX_MM)],
                seed=seed + number,
            )
            for number in range(count)
        ]
        for job in jobs:
            job.result()


def mean_dice(maps: Path, references: Path) -> float:
    """Return the mean over organs and cases, without the surfaces that take long on scans of this size."""
    dice = []
    for path in sorted(references.glob("*.nii.gz")):
        found, true = (read_labels(folder / path.name).array_zyx.ravel() for folder in (maps, references))
        counts = np.bincount(found.astype(np.int64) * 16 + true, minlength=256).reshape(16, 16)
        for k in ORGANS:
            total = counts[k].sum() + counts[:, k].sum()
            dice += [2 * counts[k, k] / total] if total else []
    return float(np.mean(dice))


def seconds_of(command: list[str], **options: Any) -> float:
    """Run a command and return how long it took."""
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=sys.stderr, **options)
    return round(time.monotonic() - start, 2)


def gpu_seconds(run: Any) -> tuple[float, float]:
    """Run something under the profiler: seconds of the clock, and those in which the GPU had work."""
    from torch.profiler import ProfilerActivity, profile

    start = time.monotonic()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
        wall = time.monotonic() - start
    spans = sorted(
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in recorded.profiler.kineto_results.events()
        if event.device_type() == torch.autograd.DeviceType.CUDA
    )
    busy, end = 0.0, 0.0
    for first, last in spans:  # the union of what overlaps
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    return round(wall, 2), round(busy * 1e-9, 2)


def main() -> None:
    """Make, plan, train, predict, and write the JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--slices", type=int, default=240)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--train-minutes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--set", nargs="+", default=["network.backbone=tiny"], dest="settings")
    parser.add_argument("--without-nnunet", action="store_true")
    arguments = parser.parse_args()
    num_slices = arguments.scans * arguments.slices
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = folder / "small", folder / "large"
        make = partial(make_scans, side=arguments.side)
        make(small / "imagesTr", small / "labelsTr", count=8, num_slices=max(4, arguments.slices // 6), seed=0)
        make(large / "images", large / "labels", count=arguments.scans, num_slices=arguments.slices, seed=100)
        content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **{n: v for v, n in ORGANS.items()}}}
        (small / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz", "numTraining": 8}))
        plans = autoseg.plan(small, folder / "run", device=arguments.device, settings=arguments.settings)
        autoseg.train(folder / "run", max_minutes=arguments.train_minutes, device=arguments.device)
        peer: dict[str, Any] = {}
        if not arguments.without_nnunet:
            planned = plan(folder / "nnunet", large / "images", large / "labels", organs=ORGANS, num_workers=8)
            make_model(folder / "nnunet", planned, num_organs=len(ORGANS))
            peer = planned["configurations"]["3d_fullres"]
        seconds: dict[str, list[float]] = {"autoseg": [], "autoseg mirrored": [], "nnU-Net": []}
        ours = [sys.executable, "-m", "autoseg.cli.predict", "-m", str(folder / "run"), "-i", str(large / "images")]
        ours += ["--device", arguments.device]
        for number in range(arguments.repeats):
            output = folder / f"ours_{number}"
            seconds["autoseg"].append(seconds_of([*ours, "-o", str(output), "--set", NO_MIRRORING]))
            if peer:
                command = predict_command(large / "images", folder / f"peer_{number}", device=arguments.device)
                seconds["nnU-Net"].append(seconds_of(command, env=environment(folder / "nnunet")))
            print(seconds, flush=True)
        dice = mean_dice(folder / "ours_0", large / "labels")
        seconds["autoseg mirrored"].append(seconds_of([*ours, "-o", str(folder / "mirrored")]))
        profiled: dict[str, float] = {}
        if arguments.device == "cuda":
            predict = partial(
                autoseg.predict_files, large / "images", folder / "run", settings=[NO_MIRRORING], device="cuda"
            )
            predict(output=folder / "warm")
            wall, busy = gpu_seconds(partial(predict, output=folder / "profiled"))
            profiled = {"wall": wall, "gpu_busy": busy, "share_outside_gpu": round(1 - busy / wall, 3)}
            profiled["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        result = {
            "scans": arguments.scans,
            "shape_zyx": [arguments.slices, arguments.side, arguments.side],
            "spacings_zyx_mm": SPACINGS_ZYX_MM,
            "organs": len(ORGANS),
            "settings": arguments.settings,
            "date": date.today().isoformat(),
            "machine": f"{torch.cuda.get_device_name() if arguments.device == 'cuda' else 'CPU'}, {os.cpu_count()} "
            f"cores, torch {torch.__version__}",
            "target_spacing_zyx_mm": plans.data.target_spacing_zyx_mm,
            "window_px": [plans.network.window_rows_px, plans.network.window_columns_px],
            "slices_per_batch": plans.inference.slices_per_batch,
            "mean_dice": round(dice, 3),
            "nnunet": {key: peer[key] for key in ("patch_size", "spacing") if key in peer},
            "seconds": seconds,
            "slices_a_second": {who: round(num_slices / min(runs), 1) for who, runs in seconds.items() if runs},
            "profiled": profiled,
        }
        if seconds["nnU-Net"]:
            result["times_nnunet"] = round(min(seconds["nnU-Net"]) / min(seconds["autoseg"]), 2)
    print(json.dumps(result, indent=2))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2, default=lambda value: np.asarray(value).tolist()) + "\n")


if __name__ == "__main__":
    main()
