"""The ways to another organ of docs/guides/add_an_organ.md, on synthetic scans.

    taskset -c 1 python tests/benchmarks/add_an_organ.py -o docs/results/add_an_organ.json

A model of four organs and 20 cases (`fine_tuning.py`) is asked for the spine and the right kidney by their descriptions
alone. Then the spine is labeled in four other cases, and learned beginning from that model: in one plan with the 20
cases, and from the four alone, in which the model's own label maps, as they are, stand for the other organs. Measured
on 8 cases that no training has seen. Seconds are those that the process computes.
"""

import json
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import numpy as np
import torch
from command_line import make_parser, require_one_core
from fine_tuning import LEARNED_FIRST, keep_organs, plan_part, prepare, train_part, write_part

import autoseg
from autoseg.demo.phantoms import PHANTOM_ORGANS
from autoseg.io.image import read_scan, write_label_map
from autoseg.network.weights.model_file import MODEL_FILE_NAME
from autoseg.system.atomic_files import read_json, write_json

NEW, ALSO_ASKED = "spine", "right kidney"


def measure(model: Path, folder: Path, output: Path, *, organs: Mapping[str, str] | None = None) -> dict[str, float]:
    """Predict the unseen cases; mean Dice by organ. The values of the model are its own, so references follow them."""
    autoseg.predict_files(folder / "all" / "unseen" / "images", model, output, device="cpu", new_organs=organs)
    values: dict[str, int] = read_json(output / "labels.json")["labels"]
    references = output.with_name(output.name + "_references")
    for path in sorted((folder / "all" / "unseen" / "labels").glob("*.nii.gz")):
        scan = read_scan(path)
        labels = np.zeros(scan.array_zyx.shape, np.uint8)
        for name, value in values.items():
            labels[scan.array_zyx == PHANTOM_ORGANS[name]] = value
        write_label_map(references / path.name, labels, geometry=scan.geometry, names={v: k for k, v in values.items()})
    scored = autoseg.evaluate(output, references).to_json()
    named = {value: name for name, value in values.items()}
    return {named[organ["value"]]: round(organ["metrics"]["dice"]["mean"], 4) for organ in scored["organs"]}


def plan_both(folder: Path, run: Path) -> None:
    """Plan the 20 cases and the four, in which the spine alone is labeled."""
    source, four = folder / "all" / "dataset", folder / "then_dataset" / "labelsTr"
    cases = [path.name.removesuffix(".nii.gz") for path in sorted(four.glob("*.nii.gz"))]
    write_part(source, folder / "spine_scans", cases=cases, organs=[NEW])
    autoseg.plan([folder / "first_dataset", folder / "spine_scans"], run, device="cpu", num_workers=1)


def plan_drafts(folder: Path, model: Path, run: Path) -> None:
    """Plan the four cases with the spine drawn into what the model makes of them."""
    source, drafts, more = folder / "all" / "dataset", folder / "drafts", folder / "more_scans"
    cases = [path.name.removesuffix(".nii.gz") for path in (folder / "then_dataset" / "labelsTr").glob("*.nii.gz")]
    write_part(source, more, cases=sorted(cases), organs=[*LEARNED_FIRST, NEW])
    autoseg.predict_files(more / "imagesTr", model, drafts, device="cpu")
    names = {PHANTOM_ORGANS[name]: name for name in (*LEARNED_FIRST, NEW)}
    for case in cases:
        path = more / "labelsTr" / f"{case}.nii.gz"
        keep_organs(source / "labelsTr" / f"{case}.nii.gz", path, organs=[NEW])
        drawn, draft = read_scan(path), read_scan(drafts / f"{case}.nii.gz")
        labels = np.where(drawn.array_zyx > 0, drawn.array_zyx, draft.array_zyx).astype(np.uint8)
        write_label_map(path, labels, geometry=drawn.geometry, names=names)
    plan_part(more, run)


def main() -> None:
    """Go all ways, and write one JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--first-seconds", type=float, default=120)
    parser.add_argument("--seconds", type=float, default=84)
    parser.add_argument("--seed", type=int, default=2026, help="of the phantoms")
    parser.add_argument("--work", type=Path, help="keep everything here, and use the first model that is there")
    arguments = parser.parse_args()
    require_one_core(parser)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.work or Path(name)
        first = folder / "first_model" / MODEL_FILE_NAME
        if not first.exists():
            prepare(folder, seed=arguments.seed, seconds=arguments.first_seconds)
        described = measure(first, folder, folder / "described", organs={NEW: "", ALSO_ASKED: ""})
        dice = {"the model, and by descriptions": described}
        plan_both(folder, folder / "both_run")
        plan_drafts(folder, first, folder / "more_run")
        for way, run in (("with its cases", "both_run"), ("with its drafts", "more_run")):
            place = folder / f"{run}_model"
            model, steps = train_part(folder / run, place, seconds=arguments.seconds, settings=[], model=first)
            dice[f"{way}, {steps} steps"] = measure(model, folder, place / "maps")
    content = {
        "dice": dice,
        "first_seconds": arguments.first_seconds,
        "seconds": arguments.seconds,
        "phantoms_seed": arguments.seed,
        "cores": 1,
        "date": date.today().isoformat(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    print(json.dumps(content))
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
