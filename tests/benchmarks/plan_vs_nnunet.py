"""Time and memory of `autoseg_plan` against `nnUNetv2_plan_and_preprocess` on the same dataset and cores.

A script, not a test:

    python tests/benchmarks/plan_vs_nnunet.py DATASET --nnunet .../bin/nnUNetv2_plan_and_preprocess -o result.json

Both commands do their whole work each time (start-up, checks, fingerprint, plan, preprocessing) with the same number
of processes, alternately and into fresh folders. nnU-Net plans its 2D configuration alone. The dataset must have
nnU-Net's layout.
Peak memory is the proportional set size of the whole process tree, sampled; it needs Linux.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

DATASET_NUMBER = 901
SECONDS_BETWEEN_SAMPLES = 0.05
KIB_PER_MIB = 1024


@dataclass(frozen=True)
class Measurement:
    """One run of one command."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float


def main() -> int:
    """Run both commands alternately, print a table and write the JSON."""
    arguments = parse()
    results: dict[str, list[Measurement]] = {"autoseg": [], "nnunet": []}
    for number in range(arguments.runs):
        for name in results:
            with tempfile.TemporaryDirectory() as folder:
                command, environment = prepare(name, arguments=arguments, folder=Path(folder))
                measurement = measure(command, environment=environment, log=Path(folder) / "log.txt")
            results[name].append(measurement)
            print(f"run {number + 1} {name:8} {show(measurement)}", flush=True)
    content = summarize(results, arguments=arguments)
    print(json.dumps(content["median"], indent=2))
    print(f"nnU-Net takes {content['wall_ratio']} times as long and {content['memory_ratio']} times the memory")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


def parse() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--nnunet", type=Path, required=True, help="nnUNetv2_plan_and_preprocess")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def prepare(name: str, *, arguments: argparse.Namespace, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Give the command and its environment; outputs go below `folder`."""
    workers = str(arguments.num_workers)
    if name == "autoseg":
        root = Path(__file__).resolve().parents[2]
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        words = [
            str(arguments.dataset.resolve()),
            "-o",
            str(folder / "run"),
            "--device",
            "cpu",
            "--num-workers",
            workers,
        ]
        command = [sys.executable, "-m", "autoseg.cli.plan", *words]
        return command, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    raw = folder / "raw" / f"Dataset{DATASET_NUMBER}_benchmark"
    raw.mkdir(parents=True)
    for part in ("imagesTr", "labelsTr", "dataset.json"):
        (raw / part).symlink_to((arguments.dataset / part).resolve())
    folders = {f"nnUNet_{part}": str(folder / part) for part in ("raw", "preprocessed", "results")}
    words = ["-d", str(DATASET_NUMBER), "-c", "2d", "--verify_dataset_integrity", "-np", workers, "-npfp", workers]
    return [str(arguments.nnunet), *words], {**os.environ, **folders, "nnUNet_def_n_proc": workers}


def measure(command: list[str], *, environment: dict[str, str], log: Path) -> Measurement:
    """Run a command to its end, sampling the memory of its process tree; a failure ends the script with its log."""
    before = os.times()
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        peak_kib = 0
        while process.poll() is None:
            peak_kib = max(peak_kib, tree_kib(process.pid))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
    seconds = time.perf_counter() - start
    after = os.times()
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measurement(round(seconds, 2), round(cpu, 2), round(peak_kib / KIB_PER_MIB, 1))


def tree_kib(pid: int) -> int:
    """Add up the proportional set size of a process and its descendants; a process that just ended counts 0."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    own = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return own + sum(tree_kib(int(child)) for child in children)


def show(measurement: Measurement) -> str:
    """Lay a measurement out as text."""
    seconds = f"{measurement.wall_seconds:7.2f} s wall {measurement.cpu_seconds:7.2f} s of cores"
    return f"{seconds} {measurement.peak_mib:8.1f} MiB"


def summarize(results: dict[str, list[Measurement]], *, arguments: argparse.Namespace) -> dict[str, object]:
    """Take medians and their ratios; keep every run."""
    median = {
        name: {
            field: statistics.median(asdict(run)[field] for run in runs)
            for field in ("wall_seconds", "cpu_seconds", "peak_mib")
        }
        for name, runs in results.items()
    }
    ours, theirs = median["autoseg"], median["nnunet"]
    return {
        "what": "autoseg_plan against nnUNetv2_plan_and_preprocess -c 2d --verify_dataset_integrity",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "dataset": arguments.dataset.resolve().name,
        "num_workers": arguments.num_workers,
        "runs": {name: [asdict(run) for run in runs] for name, runs in results.items()},
        "median": median,
        "wall_ratio": round(theirs["wall_seconds"] / ours["wall_seconds"], 2),
        "memory_ratio": round(theirs["peak_mib"] / ours["peak_mib"], 2),
    }


def cpu_name() -> str:
    """Return the processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    raise SystemExit(main())
