"""Two commits of autoseg on the same cases for the same minutes: steps, and Dice on cases that neither has seen.

    python tests/benchmarks/compare_commits.py DATASET COMMIT --held-out 40 --minutes 10 --seeds 0 1 2 -o result.json

Shows whether a change of the code made training slower or worse. COMMIT and HEAD are installed into folders of their
own, then plan, train and predict in turn through their own commands on the same machine. The cases are held out by a
seeded draw before anything else. The output is written after each training, and what it contains is not repeated.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_vs_monai import hold_out

from autoseg.evaluation import evaluate

REPOSITORY = Path(__file__).parents[2]


def full_commit(name: str) -> str:
    """Return the hash of a commit that git knows by any name."""
    command = ["git", "-C", REPOSITORY, "rev-parse", name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def install(commit: str, folder: Path) -> Path:
    """Install a commit of this repository, without its dependencies, into a folder."""
    words = ["install", "--quiet", "--no-deps", "--target", folder, f"git+file://{REPOSITORY}@{commit}"]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return folder


def run_command(package: Path, name: str, *words: str | Path) -> None:
    """Run a command of the autoseg that was installed into a folder."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    subprocess.run([sys.executable, "-m", f"autoseg.cli.{name}", *words], check=True, env=environment, cwd="/")


def train_and_predict(package: Path, training: Path, images: Path, folder: Path, *, seed: int, minutes: float) -> int:
    """Train and predict as a user does; returns the steps that were made."""
    run = folder / "run"
    run_command(package, "plan", training, "-o", run, "--device", "cpu", "--set", f"training.seed={seed}")
    run_command(package, "train", run, "--max-minutes", str(minutes), "--device", "cpu")
    run_command(package, "predict", "-m", run, "-i", images, "-o", folder / "maps", "--device", "cpu")
    steps: int = json.loads((run / "fold_all" / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    return steps


def summarize(results: list[dict[str, Any]]) -> str:
    """Lay out the steps and the mean and deviation of the Dice over the seeds."""
    lines = []
    for which in ("before", "after"):
        of_it = [result for result in results if result["which"] == which]
        dice, steps = [result["mean_dice"] for result in of_it], [result["steps"] for result in of_it]
        if of_it:
            lines.append(f"{which:<7} mean Dice {np.mean(dice):.4f}, {np.round(dice, 4).tolist()}, steps {steps}")
    return "\n".join(lines)


def main() -> None:
    """Run both checkouts for each seed and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("before", metavar="COMMIT", help="the earlier commit")
    parser.add_argument("--held-out", type=int, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=2026, help="of the draw of held-out cases")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    commits = {"before": full_commit(arguments.before), "after": full_commit("HEAD")}
    content: dict[str, Any] = {
        "dataset": arguments.dataset.name,
        "held_out": arguments.held_out,
        "seed": arguments.seed,
        "minutes": arguments.minutes,
        "commits": commits,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "results": [],
    }
    if arguments.output.exists():
        content["results"] = json.loads(arguments.output.read_text())["results"]
    results: list[dict[str, Any]] = content["results"]
    done = {(result["which"], result["training_seed"]) for result in results}
    with tempfile.TemporaryDirectory() as name:
        training, images, labels = hold_out(
            arguments.dataset, Path(name), count=arguments.held_out, seed=arguments.seed
        )
        packages = {which: install(commit, Path(name) / which) for which, commit in commits.items()}
        for seed, which in itertools.product(arguments.seeds, packages):
            if (which, seed) in done:
                continue
            folder = Path(name) / f"{which}_{seed}"
            steps = train_and_predict(packages[which], training, images, folder, seed=seed, minutes=arguments.minutes)
            dice = evaluate(folder / "maps", labels).mean_dice
            facts = {"which": which, "training_seed": seed, "steps": steps, "mean_dice": dice}
            results.append({**facts, "date": date.today().isoformat()})
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(content, indent=2) + "\n")
            print(summarize(results), flush=True)


if __name__ == "__main__":
    main()
