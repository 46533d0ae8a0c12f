"""Two datasets of which each has one half of the organs annotated, as one model; and what else could be made of them.

    python tests/proofs/half_annotated.py --steps 1500 -o docs/results/half_annotated.json

Phantoms, CT and MRI by turns. Dataset A has liver, right kidney, aorta and gallbladder in its label maps and nothing
else, dataset B spleen, left kidney and spine. On the same scans, for the same number of steps:

    joint        autoseg_plan A B: each case knows what was annotated in it
    all labels   the same scans with every organ in every label map: what could be reached at best
    background   A's and B's label maps as one dataset, what was not annotated taken for background

All predict phantoms that nobody trained on, and are compared over all organs.
"""

import argparse
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from joint_model_runs import autoseg, describe_machine, dice_by_name, mean_of, run_proof, train_all

from autoseg.demo.phantoms import PHANTOM_ORGANS, write_phantom_dataset

HALF_A = ("liver", "right kidney", "aorta", "gallbladder")


def main() -> None:
    """Run it and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=48, help="to train on, half of them in each dataset")
    parser.add_argument("--unseen", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=11, help="of the phantoms")
    run_proof(parser, run)


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the datasets, train the three models, compare them."""
    whole, unseen = make_datasets(folder, arguments)
    datasets = {"joint": [folder / "A", folder / "B"], "all labels": [whole], "background": [folder / "background"]}
    runs = {name: folder / "runs" / name.replace(" ", "_") for name in datasets}
    length = ["--set", f"training.steps_per_epoch={arguments.steps}", "--set", "training.epochs=1"]
    for name, roots in datasets.items():
        autoseg("plan", *roots, "-o", runs[name], "--device", arguments.plan_for, *length)
    steps = dict.fromkeys(runs, arguments.steps)
    train_all(runs, steps=steps, device=arguments.device, at_once=arguments.at_once)
    organs = {}
    for name, model in runs.items():
        output = folder / "predictions" / model.name
        autoseg("predict", "-m", model, "-i", unseen / "images", "-o", output, "--device", arguments.device)
        organs[name] = dice_by_name(output, unseen / "labels")
    return {
        **describe_machine(arguments),
        "steps": arguments.steps,
        "cases": arguments.cases,
        "unseen": arguments.unseen,
        "seed": arguments.seed,
        "annotated_in_A": list(HALF_A),
        "mean_dice": {name: mean_of(dice) for name, dice in organs.items()},
        "dice_of_organs": {
            name: {organ: float(np.mean(values)) for organ, values in dice.items() if values}
            for name, dice in organs.items()
        },
    }


def make_datasets(folder: Path, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Write all label maps whole, halved over two datasets, and halved in one; returns the whole and the unseen."""
    write_phantom_dataset(folder, num_train=arguments.cases, num_test=arguments.unseen, seed=arguments.seed)
    whole, unseen = folder / "dataset", folder / "unseen"
    shutil.copy(whole / "dataset.json", unseen / "labels" / "dataset.json")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (whole / "labelsTr").glob("*.nii.gz"))
    others = [name for name in PHANTOM_ORGANS if name not in HALF_A]
    for number, case in enumerate(cases):
        letter, kept = ("A", HALF_A) if number // 2 % 2 == 0 else ("B", others)  # CT and MRI in both
        for target in (folder / letter, folder / "background"):
            _copy_case(case, whole, target, kept=kept)
    content = json.loads((whole / "dataset.json").read_text())
    for name, kept in (("A", HALF_A), ("B", others), ("background", tuple(PHANTOM_ORGANS))):
        labels = {"background": 0, **{organ: PHANTOM_ORGANS[organ] for organ in kept}}
        (folder / name / "dataset.json").write_text(json.dumps({**content, "name": name, "labels": labels}))
    return whole, unseen


def _copy_case(case: str, source: Path, target: Path, *, kept: Collection[str]) -> None:
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", target / "imagesTr")
    image = nib.load(source / "labelsTr" / f"{case}.nii.gz")
    labels = np.asarray(image.dataobj).copy()
    labels[~np.isin(labels, [PHANTOM_ORGANS[organ] for organ in kept])] = 0
    nib.save(nib.Nifti1Image(labels, image.affine), target / "labelsTr" / f"{case}.nii.gz")


if __name__ == "__main__":
    main()
