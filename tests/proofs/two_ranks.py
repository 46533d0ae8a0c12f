"""Two ranks on CPUs against one, a rank that is killed, and a run that goes on with other ranks.

    python tests/proofs/two_ranks.py -o docs/results/two_ranks.json

One dataset of noise with two boxes, planned as ever but for `training.steps_per_epoch=1`, so that `metrics.jsonl` has
a line a step. What is asked:

* 20 steps of two ranks under torchrun and of one rank with the doubled batch, on one core and on two: how far are the
  losses apart, are the weights the same?
* A rank, the second and then the first, is killed by SIGKILL in the middle: how long until all is over, what does the
  user see, and does the same command end with the losses and weights of the undisturbed run?
* A run of two ranks is stopped and goes on with one, and with three: what are its losses then?
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from soak import write_dataset

import autoseg
from autoseg.system.atomic_files import write_json
from autoseg.training.logging.metrics_log import read_metrics

STEPS = 20
LONGEST_SECONDS = 600.0
TRAIN = ("-m", "autoseg.cli.train")
MESSAGE = re.compile(r"^.*autoseg_train: .*$", flags=re.MULTILINE)


def train(run: Path, *, ranks: int, steps: int, cores: int | None = None) -> "subprocess.Popen[str]":
    """Start `autoseg_train`, under torchrun where there are several ranks; what it says goes to `log.txt`."""
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    words = [*launcher, *TRAIN, str(run), "--epochs", str(steps), "--device", "cpu"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    if cores is not None:
        environment["OMP_NUM_THREADS"] = str(cores)
    with (run / "log.txt").open("w") as log:
        return subprocess.Popen(
            [sys.executable, *words], stdout=log, stderr=subprocess.STDOUT, env=environment, text=True
        )


def finish(process: "subprocess.Popen[str]", run: Path) -> None:
    """Wait for a run that must end well."""
    if process.wait(LONGEST_SECONDS) != 0:
        sys.exit((run / "log.txt").read_text())


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again."""
    start = time.monotonic()
    while not is_so():
        if time.monotonic() - start > LONGEST_SECONDS:
            sys.exit("what was waited for did not come")
        time.sleep(0.05)


def losses_of(run: Path) -> list[dict[str, float]]:
    """Return the loss terms of each step."""
    return [record["losses"] for record in read_metrics(run / "fold_all" / "metrics.jsonl")]


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Compare every term of the loss in every step, and all weights and averages at the end."""
    ours, theirs = losses_of(one), losses_of(other)
    states = [torch.load(run / "fold_all" / "resume.pt", weights_only=True) for run in (one, other)]
    differences = [abs(a[name] - b[name]) for a, b in zip(ours, theirs, strict=True) for name in b]
    relative = [abs(a["total"] - b["total"]) / b["total"] for a, b in zip(ours, theirs, strict=True)]
    return {
        "steps": len(ours),
        "largest_difference_of_a_loss": max(differences),
        "largest_relative_difference_of_a_loss": max(relative),
        "same_weights": all(
            torch.equal(value, states[1][part][name])
            for part in ("network", "averaged")
            for name, value in states[0][part].items()
        ),
        "loss_first_and_last": [round(ours[0]["total"], 4), round(ours[-1]["total"], 4)],
    }


def rank_process(parent: int, rank: int) -> int | None:
    """Return the process of a rank, which torchrun, `parent`, has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_child = f"\nPPid:\t{parent}\n" in (folder / "status").read_text()
            if is_child and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:
            continue
    return None


def kill_a_rank(run: Path, rank: int, *, steps: int) -> dict[str, Any]:
    """Kill a rank in the middle of a run, wait for the end, and let the same command continue."""
    process = train(run, ranks=2, steps=steps)
    metrics = run / "fold_all" / "metrics.jsonl"
    wait_until(lambda: len(read_metrics(metrics)) >= steps // 2)
    victim = rank_process(process.pid, rank)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    code = process.wait(LONGEST_SECONDS)
    seconds = time.monotonic() - start
    words = MESSAGE.search((run / "log.txt").read_text())
    finish(train(run, ranks=2, steps=steps), run)
    continued = re.search(r"continuing at step \d+", (run / "log.txt").read_text())
    return {
        "killed_rank": rank,
        "seconds_until_all_ended": round(seconds, 1),
        "exit_code_of_torchrun": code,
        "message": None if words is None else words[0].replace(f"{run.parent}{os.sep}", ""),
        "then": None if continued is None else continued[0],
    }


def go_on(run: Path, *, steps: int, ranks: int) -> dict[str, Any]:
    """Stop a run of two ranks in its middle, and go on with another number of them."""
    process = train(run, ranks=2, steps=steps)
    wait_until(lambda: len(read_metrics(run / "fold_all" / "metrics.jsonl")) >= steps // 2)
    process.send_signal(signal.SIGTERM)
    process.wait(LONGEST_SECONDS)
    stopped_at = len(losses_of(run))
    finish(train(run, ranks=ranks, steps=steps), run)
    return {"ranks": ranks, "stopped_at_step": stopped_at}


def prove(folder: Path, *, settings: Sequence[str], batch_slices: int) -> dict[str, Any]:
    """Do all of it in a folder; returns the report."""
    write_dataset(folder / "data")
    plans = {}
    for name, batch in (("one", 2 * batch_slices), ("two", batch_slices)):
        words = [*settings, "training.steps_per_epoch=1", f"training.batch_slices={batch}"]
        plans[name] = autoseg.plan(folder / "data", folder / name, device="cpu", settings=words, num_workers=1)

    def copy(name: str, new: str) -> Path:
        shutil.copytree(folder / name, folder / new)
        return folder / new

    one_core, two_cores, two_ranks = copy("one", "one_core"), copy("one", "two_cores"), copy("two", "two_ranks")
    finish(train(one_core, ranks=1, steps=STEPS, cores=1), one_core)
    finish(train(two_cores, ranks=1, steps=STEPS, cores=2), two_cores)
    finish(train(two_ranks, ranks=2, steps=STEPS), two_ranks)
    report: dict[str, Any] = {
        "network": plans["one"].network.model_dump(mode="json"),
        "slices_per_step": 2 * batch_slices,
        "two_ranks_against_one_on_one_core": compare(two_ranks, one_core),
        "two_ranks_against_one_on_two_cores": compare(two_ranks, two_cores),
        "killed": [],
        "other_ranks": [],
    }
    for rank in (1, 0):
        run = copy("two", f"killed_{rank}")
        report["killed"].append({**kill_a_rank(run, rank, steps=STEPS), "against_undisturbed": compare(run, two_ranks)})
    for ranks in (1, 3):
        run = copy("two", f"on_{ranks}")
        report["other_ranks"].append(
            {**go_on(run, steps=STEPS, ranks=ranks), "against_undisturbed": compare(run, two_ranks)}
        )
    return report


def main() -> None:
    """Run it and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-slices", type=int, default=8, help="of each of the two ranks")
    parser.add_argument("--set", nargs="+", default=[], dest="settings", help="more settings of the plan")
    parser.add_argument("--folder", type=Path, help="keep runs and logs here")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        report = prove(arguments.folder or Path(name), settings=arguments.settings, batch_slices=arguments.batch_slices)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    write_json(arguments.output, {"date": date.today().isoformat(), "machine": machine, **report})
    print(json.dumps({key: value for key, value in report.items() if key != "network"}, indent=2))
    pairs = [report["two_ranks_against_one_on_one_core"], report["two_ranks_against_one_on_two_cores"]]
    is_near = all(pair["largest_relative_difference_of_a_loss"] <= 1e-3 for pair in pairs)
    is_quick = all(one["seconds_until_all_ended"] < 120 and one["message"] and one["then"] for one in report["killed"])
    sys.exit(0 if is_near and is_quick else 1)


if __name__ == "__main__":
    main()
