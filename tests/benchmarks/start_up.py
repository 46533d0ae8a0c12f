"""From the command to the first slice: how long `autoseg_predict` takes to begin, and `--help` to answer.

    python tests/benchmarks/start_up.py -m model.safetensors -i scan.nii.gz -o docs/results/start_up.json

Each run is a fresh process; the first one, whose files may have to come from the disk, is listed first. The process
itself records the moment of the first slice, when the network is called for the first time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from command_line import make_parser

from autoseg.system.atomic_files import write_json

PROGRAM = """
import sys, time
from autoseg.inference import sliding_window  # loads what the command loads

real = sliding_window._predict_part

def first(*values, **facts):
    print("FIRST", time.time(), file=sys.stderr)
    sliding_window._predict_part = real
    return real(*values, **facts)

sliding_window._predict_part = first
from autoseg.cli.predict import main
sys.exit(main())
"""


def seconds_to_first_slice(words: list[str]) -> float:
    """Start the command and return when it first called the network."""
    start = time.time()
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True)
    line = next(line for line in done.stderr.splitlines() if line.startswith("FIRST"))
    return round(float(line.split()[1]) - start, 2)


def seconds_of_help() -> float:
    """Return how long `--help` takes."""
    start = time.time()
    subprocess.run([Path(sys.executable).parent / "autoseg_predict", "--help"], capture_output=True, check=True)
    return round(time.time() - start, 2)


def main() -> None:
    """Measure and write the JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("-i", "--input", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    first, helped = [], []
    for _ in range(arguments.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            words = ["-m", str(arguments.model), "-i", str(arguments.input), "-o", folder, "--device", "cpu"]
            first.append(seconds_to_first_slice(words))
        helped.append(seconds_of_help())
    content = {
        "seconds_to_first_slice": first,
        "seconds_of_help": helped,
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, torch {torch.__version__}",
    }
    print(json.dumps(content, indent=2))
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
