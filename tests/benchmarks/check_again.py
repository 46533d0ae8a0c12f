"""Measures `autoseg_plan DATASET --check -o RUN`: the first time, again, and after one file was touched or changed.

    python tests/benchmarks/check_again.py data/liver data/heart -o docs/results/check_again.json

200 phantoms are drawn and measured too. Each run is a fresh process on a copy of the dataset. `import` is a process
that loads what the command loads and does nothing.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from autoseg.demo.phantoms import write_phantom_dataset

NUM_PHANTOMS = 200


def seconds(words: list[str]) -> float:
    """Return how long a fresh Python takes."""
    start = time.time()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return round(time.time() - start, 2)


def measure(root: Path, *, name: str, folder: Path) -> dict[str, object]:
    """Measure one dataset, of which a copy is made."""
    copy = folder / name
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    labels = sorted((copy / "labelsTr").glob("*.nii.gz"))
    check = ["-m", "autoseg.cli.plan", str(copy), "--check", "-o", str(folder / "run")]
    result: dict[str, object] = {"dataset": name, "cases": len(labels)}
    result["import"] = seconds(["-c", "import autoseg.planning.checks"])
    result["first"] = seconds(check)
    result["again"] = [seconds(check) for _ in range(3)]
    labels[0].touch()
    result["one_touched"] = seconds(check)
    labels[0].write_bytes(gzip.compress(gzip.decompress(labels[0].read_bytes()), 1))
    result["one_changed"] = seconds(check)
    result["cache_bytes"] = sum(path.stat().st_size for path in (folder / "run").glob("*.jsonl"))
    return result


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="*", help="in nnU-Net's layout")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory() as temporary:
        drawn = Path(temporary) / "drawn"
        write_phantom_dataset(drawn, num_train=NUM_PHANTOMS, num_test=0, seed=0)
        for name, root in [*((root.name, root) for root in arguments.datasets), ("phantoms", drawn / "dataset")]:
            folder = Path(temporary) / "measured" / name
            folder.mkdir(parents=True)
            measured.append(measure(root, name=name, folder=folder))
            print(json.dumps(measured[-1]))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    machine = f"{os.cpu_count()} cores, load averages at the end {load}"
    content = {"seconds": measured, "date": date.today().isoformat(), "machine": machine}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
