"""Shared by the proofs about joint models: cases held out, runs trained in parallel, Dice by name.

Not a proof by itself: `one_model.py` and `half_annotated.py` use it. Dice is computed here from the files alone, with
nibabel and the names in `dataset.json` and `labels.json`, by none of autoseg's own code.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from autoseg.datasets.dataset import read_dataset


@dataclass(frozen=True)
class HeldOut:
    """A dataset without some cases, and those: images in one folder, label maps and `dataset.json` in another."""

    dataset: Path
    images: Path
    labels: Path


def hold_out(dataset: Path, folder: Path, *, count: int, seed: int) -> HeldOut:
    """Copy a dataset in nnU-Net's layout, `count` of its cases to one side, by a seeded draw."""
    cases = sorted(read_dataset(dataset).cases, key=lambda case: case.case_id)
    held = {cases[i].case_id for i in np.random.default_rng(seed).permutation(len(cases))[:count]}
    parts = HeldOut(folder / dataset.name, folder / f"{dataset.name}_held_out", folder / f"{dataset.name}_references")
    for case in cases:
        is_held = case.case_id in held
        assert case.label_path is not None
        for path, target in [
            *((path, parts.images if is_held else parts.dataset / "imagesTr") for path in case.image_paths),
            (case.label_path, parts.labels if is_held else parts.dataset / "labelsTr"),
        ]:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    content = json.loads((dataset / "dataset.json").read_text())
    (parts.dataset / "dataset.json").write_text(json.dumps({**content, "numTraining": len(cases) - count}))
    if count:
        shutil.copy(dataset / "dataset.json", parts.labels / "dataset.json")
    return parts


def autoseg(verb: str, *words: object, core: int | None = None) -> None:
    """Run a command of autoseg, on one core if it is given; what it says goes to stderr."""
    command = [sys.executable, "-m", f"autoseg.cli.{verb}", *map(str, words)]
    environment = dict(os.environ)
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
        environment["OMP_NUM_THREADS"] = "1"
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)


def train_all(runs: Mapping[str, Path], *, steps: Mapping[str, int], device: str, at_once: int) -> None:
    """Train each planned run for so many steps on all its cases, some at once; on a CPU each has a core to itself."""
    free = list(range(at_once))

    def train(name: str) -> None:
        core = free.pop()
        try:
            autoseg("train", runs[name], "--epochs", 1, "--device", device, core=core if device == "cpu" else None)
        finally:
            free.append(core)

    with ThreadPoolExecutor(at_once) as pool:
        longest_first = sorted(runs, key=lambda name: -steps[name])
        list(pool.map(train, longest_first))


def dice_by_name(predictions: Path, references: Path) -> dict[str, list[float]]:
    """Return the Dice of every case for each organ that the references' `dataset.json` names.

    An organ that neither holds counts nowhere; one that only one of both holds has 0.
    """
    wanted = _values(json.loads((references / "dataset.json").read_text())["labels"])
    found = _values(json.loads((predictions / "labels.json").read_text())["labels"])
    dice: dict[str, list[float]] = {name: [] for name in wanted}
    for path in sorted(references.glob("*.nii*")):
        stem = path.name.split(".nii")[0]
        reference = np.asarray(nib.load(path).dataobj).round().astype(int)
        prediction = np.asarray(nib.load(predictions / f"{stem}.nii.gz").dataobj).astype(int)
        for name, value in wanted.items():
            one, other = reference == value, prediction == found.get(name, -1)
            total = one.sum() + other.sum()
            if total:
                dice[name].append(float(2 * (one & other).sum() / total))
    return dice


def mean_of(dice: Mapping[str, Sequence[float]]) -> float:
    """Average over the cases of each organ, then over the organs."""
    return float(np.mean([np.mean(values) for values in dice.values() if values]))


def run_proof(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace, Path], dict[str, Any]]) -> None:
    """Add what all proofs ask, run one in a folder, write its result as JSON and print the means."""
    parser.add_argument("--device", default="cpu", help="to train and predict on")
    parser.add_argument("--plan-for", default="cpu", help="device that is planned for")
    parser.add_argument("--at-once", type=int, default=2, help="trainings side by side")
    parser.add_argument("--work", type=Path, help="folder for the runs, kept (default: a temporary one)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = run(arguments, arguments.work or Path(scratch))
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["mean_dice"], indent=2))


def describe_machine(arguments: argparse.Namespace) -> dict[str, str]:
    """Say when and where a result was made."""
    return {
        "date": date.today().isoformat(),
        "machine": torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "planned_for": arguments.plan_for,
    }


def _values(labels: Mapping[str, int]) -> dict[str, int]:
    return {name: value for name, value in labels.items() if name != "background"}
