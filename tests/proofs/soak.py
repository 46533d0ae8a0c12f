"""Two hours' worth of training steps with faults at random moments; it must end with a model that works.

    python tests/proofs/soak.py -o docs/results/soak.json

Number of steps: autoseg's own nano network made 1,768 steps in 10 minutes of the left atrium's training, on two cores,
the mean of three seeds (docs/results/left_atrium_vs_monai_seeds.json); two hours are 12 times that, 21,216, or 21,200
in whole epochs. The network here is a much smaller one, so that they take less time (55 minutes on two cores that
others used too), and states are saved more often, every ten seconds.

Faults are drawn from a seed and put in from outside (`soak_runner.py`); a kill ends a run, and the same command
begins the next one, sometimes after the newest state was damaged. The log must report each fault; the report
has the line. The file must exist at the end, be loaded, and its Dice on cases that were left out be that of a model
that has learned.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import autoseg
from autoseg.network.weights.model_file import load_model
from autoseg.system.atomic_files import read_json, write_json
from autoseg.training.logging.metrics_log import read_metrics

STEPS = 12 * 1768
FOLD = "0"
CORES = (2, 1, 1)  # of the runs, by turns: with two there is a process to kill, with one the cores need not be free
COUNTS = {
    "bad-batch": 40,
    "bad-burst": 6,
    "bad-weights": 1,
    "worker-killed": 4,
    "memory-full": 4,
    "disk-full": 10,
    "killed": 8,
    "killed-in-save": 4,
}
SETTINGS = (
    "network.image_size_px=32",
    "network.window_rows_px=32",
    "network.window_columns_px=32",
    "network.feature_channels=16",
    "network.refiner_channels=[]",
    "network.semantic_decoder=false",
    "network.interaction_levels=0",
    "network.injection_stages=[]",
    "network.text.model=learned",
    "training.batch_slices=8",
    "training.steps_per_epoch=20",
)
LINES = {
    "bad-batch": r"step {step}: the loss is not finite; its batch is skipped",
    "bad-burst": r"step {step}: the loss is not finite; its batch is skipped",
    "bad-weights": r"back to the weights of step \d+",
    "worker-killed": r"another of the 2 ranks is gone",
    "memory-full": r"the memory of cpu is full; from now on with \d slices at a time",
    "disk-full": r"resume.pt cannot be written: No space left",
    "killed": r"continuing at step \d+",
    "killed-in-save": r"continuing at step \d+",
    "flipped": r"resume.pt is damaged: .* SHA-256 .* Going on from the state before it",
    "cut-off": r"resume.pt is damaged: .* SHA-256 .* Going on from the state before it",
    "emptied": r"resume.pt is damaged: it has 0 bytes, too few. Going on from the state before it",
    "gone": r"resume.pt is missing. Going on from the state before it",
}
BETWEEN_RUNS = ("killed", "killed-in-save", "flipped", "cut-off", "emptied", "gone")  # the next one's log tells


def write_dataset(root: Path, *, num_cases: int = 5) -> None:
    """Write noise with two boxes, a bright and a dark one."""
    for number in range(num_cases):
        rng = np.random.default_rng(number)
        labels = np.zeros((24, 24, 6), np.uint8)
        labels[3 : 11 + number, 3:11, 1:4] = 1
        labels[14:22, 13 - number : 20, 2:5] = 2
        image = rng.normal(100, 10, labels.shape) + 60 * (labels == 1) - 60 * (labels == 2)
        for folder, name, array in (
            ("imagesTr", f"c{number}_0000", image.astype(np.float32)),
            ("labelsTr", f"c{number}", labels),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"{name}.nii.gz")
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))


def draw_faults(counts: dict[str, int], *, steps: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Draw a step for each fault, none in the first and last twentieth."""
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    places = np.sort(rng.choice(np.arange(steps // 20, steps - steps // 20), len(kinds), replace=False))
    shuffled = rng.permutation(kinds)
    return [
        {"id": n, "fault": str(kind), "step": int(step)}
        for n, (kind, step) in enumerate(zip(shuffled, places, strict=True))
    ]


def damage_newest(folder: Path, *, rng: np.random.Generator) -> str | None:
    """Damage the newest state in half of the cases; returns how."""
    path = folder / "resume.pt"
    if rng.random() < 0.5 or not path.exists() or not (folder / "resume_previous.pt").exists():
        return None
    kind = str(rng.choice(["flipped", "cut-off", "emptied", "gone"]))
    content = bytearray(path.read_bytes())
    if kind == "gone":
        path.unlink()
        return kind
    if kind == "flipped":
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(
        content[: {"flipped": len(content), "cut-off": int(rng.integers(100, len(content))), "emptied": 0}[kind]]
    )
    return kind


def soak(
    folder: Path, *, steps: int, counts: dict[str, int], seconds_between_saves: float, seed: int
) -> dict[str, Any]:
    """Plan, then train in as many runs as the kills make; returns the report.

    Raises:
        SystemExit: A run ended in another way than done or killed.
    """
    rng = np.random.default_rng(seed)
    write_dataset(folder / "data")
    run, ledger, faults = folder / "run", folder / "ledger.jsonl", folder / "faults.json"
    autoseg.plan(folder / "data", run, device="cpu", settings=SETTINGS, num_workers=1)
    faults.write_text(json.dumps(draw_faults(counts, steps=steps, rng=rng)))
    fold = run / f"fold_{FOLD}"
    start, logs, between = time.monotonic(), [], []
    code = -9
    while code in (-9, 2, 69) and len(logs) <= len(read_json(faults)):
        words = [run, FOLD, str(steps // 20), faults, ledger, str(len(logs)), str(seconds_between_saves)]
        log = folder / f"run_{len(logs)}.log"
        with log.open("w") as file:
            code = subprocess.run(
                [sys.executable, Path(__file__).with_name("soak_runner.py"), *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": str(CORES[len(logs) % len(CORES)])},
                check=False,
            ).returncode
        logs.append(log.read_text())
        print(f"run {len(logs) - 1}: ended with {code} after {time.monotonic() - start:.0f} s", file=sys.stderr)
        if code == 2 and "cannot be written" not in logs[-1]:  # a full disk at the very end: the same command goes on
            break
        if code == -9 and (kind := damage_newest(fold, rng=rng)):
            between.append({"fault": kind, "run": len(logs) - 1})
    if code != 0:
        sys.exit(f"the last run ended with {code}:\n{logs[-1]}")
    made = [json.loads(line) for line in ledger.read_text().splitlines()]
    return report(fold, [*made, *between], logs, planned=len(read_json(faults))) | {
        "minutes": round((time.monotonic() - start) / 60, 1)
    }


def report(fold: Path, made: list[dict[str, Any]], logs: list[str], *, planned: int) -> dict[str, Any]:
    """Gather what came of it; a fault that no line tells of has none."""
    left = [log.splitlines() for log in logs]
    reported = []
    for fault in sorted(made, key=lambda one: one["run"]):
        lines = left[fault["run"] + (fault["fault"] in BETWEEN_RUNS)]
        pattern = re.compile(LINES[fault["fault"]].format(step=fault.get("step")))
        line = next((line for line in lines if pattern.search(line)), None)
        if line is not None and fault["fault"] not in ("killed", "killed-in-save"):
            lines.remove(line)  # each line tells of one fault
        reported.append({**fault, "line": None if line is None else line.replace(str(fold.parents[1]) + os.sep, "")})
    network, _ = load_model(fold / "model.safetensors")
    losses = [
        record["losses"]["total"] for record in read_metrics(fold / "metrics.jsonl") if "total" in record["losses"]
    ]
    tenth = max(1, len(losses) // 10)
    return {
        "runs": len(logs),
        "steps": read_metrics(fold / "metrics.jsonl")[-1]["step"],
        "planned_faults": planned,
        "faults": dict(sorted(Counter(fault["fault"] for fault in reported).items())),
        "unreported": [fault for fault in reported if fault["line"] is None],
        "loss_first_tenth": round(float(np.mean(losses[:tenth])), 4),
        "loss_last_tenth": round(float(np.mean(losses[-tenth:])), 4),
        "weights_are_finite": all(bool(weight.isfinite().all()) for weight in network.parameters()),
        "leftovers": sorted(path.name for path in fold.glob(".writing-*")),
        "validation_dice": read_json(fold / "validation" / "summary.json")["mean_dice"],
        "every_fault": reported,
    }


def main() -> None:
    """Run it and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--each", type=int, help="so many of each fault in place of the usual numbers")
    parser.add_argument("--seconds-between-saves", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--folder", type=Path, help="keep run and logs here")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    counts = COUNTS if arguments.each is None else dict.fromkeys(COUNTS, arguments.each)
    counts = {**counts, "bad-weights": 1}  # the run goes back once
    with tempfile.TemporaryDirectory() as name:
        result = soak(
            arguments.folder or Path(name),
            steps=arguments.steps,
            counts=counts,
            seconds_between_saves=arguments.seconds_between_saves,
            seed=arguments.seed,
        )
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    write_json(
        arguments.output, {"date": date.today().isoformat(), "machine": machine, "seed": arguments.seed, **result}
    )
    for fault in result["every_fault"]:
        print(f"{fault['fault']:<15} run {fault['run']:>2}  {fault['line'] or 'NOT REPORTED'}")
    is_good = not result["unreported"] and not result["leftovers"] and result["weights_are_finite"]
    sys.exit(0 if is_good and result["loss_last_tenth"] < result["loss_first_tenth"] else 1)


if __name__ == "__main__":
    main()
