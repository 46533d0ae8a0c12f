"""Ranks on one GPU: nccl with one rank, and gloo with two that share the GPU, against the plain command.

    python tests/benchmarks/ranks_on_cuda.py -o docs/results/ranks_cuda.json

Phantoms are made and planned here. Four trainings of 24 steps, a line of `metrics.jsonl` a step: the plain command and
one rank under torchrun (nccl) with the same batch; the plain command with the doubled batch and two ranks (gloo, since
nccl refuses two ranks on a GPU) with half of it each. A GPU adds up in an order of its own, so two runs of the same
command differ; the plain command runs twice to say by how much. Some 80 seconds on one H100 with 16 cores.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from command_line import make_parser

import autoseg
from autoseg.config.overrides import apply_settings
from autoseg.config.plans import write_plans
from autoseg.demo.phantoms import write_phantom_dataset
from autoseg.system.atomic_files import write_json
from autoseg.training.logging.metrics_log import read_metrics

STEPS = 24
WARM_UP = 4  # steps that are not timed
BATCH = 8
LONGEST_SECONDS = 120.0
RUNS = {  # batch_slices, ranks, or None for the plain command
    "plain": (BATCH, None),
    "plain again": (BATCH, None),
    "one rank, nccl": (BATCH, 1),
    "plain, doubled batch": (2 * BATCH, None),
    "two ranks on one GPU, gloo": (BATCH, 2),
}
PAIRS = (
    ("plain", "plain again"),
    ("plain", "one rank, nccl"),
    ("plain, doubled batch", "two ranks on one GPU, gloo"),
)


def train(run: Path, *, ranks: int | None) -> float:
    """Run the command; returns the seconds from its start to its end.

    Raises:
        SystemExit: It failed; shows what it said.
    """
    launcher = [] if ranks is None else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    words = [*launcher, "-m", "autoseg.cli.train", str(run), "--epochs", str(STEPS), "--device", "cuda"]
    start = time.monotonic()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=LONGEST_SECONDS)
    (run / "log.txt").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return time.monotonic() - start


def describe(run: Path, seconds: float) -> dict[str, Any]:
    """Return the losses and the times of the steps."""
    records = read_metrics(run / "fold_all" / "metrics.jsonl")
    times = [record["seconds"] for record in records]
    steps = [after - before for before, after in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False)]
    return {
        "seconds_from_start_to_end": round(seconds, 1),
        "median_step_ms": round(1000 * statistics.median(steps)),
        "losses": [record["losses"]["total"] for record in records],
    }


def measure(folder: Path, *, backbone: str) -> dict[str, Any]:
    """Do all of it."""
    write_phantom_dataset(folder, num_train=8, num_test=0, seed=2026)
    settings = [f"network.backbone={backbone}", "training.steps_per_epoch=1"]
    plans = autoseg.plan(folder / "dataset", folder / "planned", device="cuda", settings=settings)
    results: dict[str, Any] = {}
    for name, (batch, ranks) in RUNS.items():
        run = folder / name.replace(" ", "_")
        shutil.copytree(folder / "planned", run)
        write_plans(apply_settings(plans, [f"training.batch_slices={batch}"]), run / "plans.json")
        results[name] = describe(run, train(run, ranks=ranks))
        print(name, {key: value for key, value in results[name].items() if key != "losses"}, flush=True)
    differences = {
        f"{one} / {other}": max(
            abs(a - b) for a, b in zip(results[one]["losses"], results[other]["losses"], strict=True)
        )
        for one, other in PAIRS
    }
    return {
        "steps": STEPS,
        "window_px": [plans.network.window_rows_px, plans.network.window_columns_px],
        "backbone": backbone,
        "weights": sum(
            value.numel()
            for value in torch.load(folder / "plain" / "fold_all" / "resume.pt", weights_only=True, map_location="cpu")[
                "network"
            ].values()
        ),
        "runs": results,
        "largest_difference_of_the_loss": differences,
    }


def main() -> None:
    """Run it and write the JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--backbone", default="tiny")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        content = measure(Path(name), backbone=arguments.backbone)
    machine = f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    write_json(arguments.output, {"date": date.today().isoformat(), "machine": machine, **content})
    print(json.dumps(content["largest_difference_of_the_loss"], indent=2))


if __name__ == "__main__":
    main()
