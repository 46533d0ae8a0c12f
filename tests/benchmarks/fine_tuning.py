"""Other organs from few cases in little time: from scratch, and beginning from a model of other organs.

    taskset -c 1 python tests/benchmarks/fine_tuning.py -o docs/results/fine_tuning.json

On synthetic scans (`autoseg/demo/phantoms.py`): a model learns some organs from 20 cases; then the other organs are
learned from 4 other cases, from scratch and from that model, for the same seconds of computing with the same plan, and
measured on 8 cases that no training has seen. Seconds are those that the process computes, so that other work on the
machine takes nothing away.

`--seed` draws the phantoms; what fine-tuning does by itself was chosen with another one than the default.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from command_line import make_parser, require_one_core
from compare_settings import train_for

import autoseg
from autoseg.config.overrides import apply_settings
from autoseg.config.plans import read_plans
from autoseg.demo.phantoms import PHANTOM_ORGANS, write_phantom_dataset
from autoseg.io.image import read_scan, write_label_map
from autoseg.network.weights.model_file import MODEL_FILE_NAME
from autoseg.preprocessing.store import CaseStore
from autoseg.system.atomic_files import write_json
from autoseg.training.checkpointing.init_from_model import find_start

LEARNED_FIRST = ("liver", "spleen", "left kidney", "aorta")
LEARNED_THEN = ("right kidney", "gallbladder", "spine")
NUM_FIRST, NUM_THEN, NUM_UNSEEN = 20, 4, 8


def write_part(source: Path, folder: Path, *, cases: Sequence[str], organs: Sequence[str]) -> None:
    """Write some cases of a dataset as one of their own, in whose label maps some organs stand."""
    (folder / "imagesTr").mkdir(parents=True)
    for case in cases:
        shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", folder / "imagesTr")
        keep_organs(source / "labelsTr" / f"{case}.nii.gz", folder / "labelsTr" / f"{case}.nii.gz", organs=organs)
    content = json.loads((source / "dataset.json").read_text())
    content["name"] = folder.name
    content["labels"] = {"background": 0, **{name: PHANTOM_ORGANS[name] for name in organs}}
    write_json(folder / "dataset.json", content)


def keep_organs(source: Path, path: Path, *, organs: Sequence[str]) -> None:
    """Write a label map without the other organs."""
    scan = read_scan(source)
    names = {PHANTOM_ORGANS[name]: name for name in organs}
    labels = np.where(np.isin(scan.array_zyx, list(names)), scan.array_zyx, 0).astype(np.uint8)
    write_label_map(path, labels, geometry=scan.geometry, names=names)


def plan_part(folder: Path, run: Path) -> list[str]:
    """Plan a dataset as a user does; returns its cases."""
    autoseg.plan(folder, run, device="cpu", num_workers=1)
    return CaseStore(run / "preprocessed", data_hash=read_plans(run / "plans.json").data.hash()).case_ids()


def train_part(
    run: Path, folder: Path, *, seconds: float, settings: Sequence[str], model: Path | None = None
) -> tuple[Path, int]:
    """Train on all cases of a run; returns the model's file and the steps."""
    plans = apply_settings(read_plans(run / "plans.json"), settings)
    store = CaseStore(run / "preprocessed", data_hash=plans.data.hash())
    folder.mkdir(parents=True)
    start = find_start(model, folder, plans=plans, fold="all", has_begun=False)
    state = train_for(seconds, plans, store, store.case_ids(), folder=folder, start=start)
    return folder / MODEL_FILE_NAME, state.step


def measure(model: Path, unseen: Path, output: Path) -> dict[str, object]:
    """Predict the unseen cases, and compare."""
    autoseg.predict_files(unseen / "images", model, output, device="cpu")
    scored = autoseg.evaluate(output, unseen / "labels")
    organs = {organ["name"]: round(organ["metrics"]["dice"]["mean"], 4) for organ in scored.to_json()["organs"]}
    return {"mean_dice": round(scored.mean_dice, 4), "organs": organs}


def main() -> None:
    """Train the first model once, then both ways with each seed, and write one JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--first-seconds", type=float, default=120)
    parser.add_argument("--seconds", type=float, nargs="+", default=[20, 60])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the trainings")
    parser.add_argument("--seed", type=int, default=2026, help="of the phantoms")
    parser.add_argument("--set", nargs="+", default=[], dest="settings", help="of the second plan, when fine-tuning")
    parser.add_argument("--work", type=Path, help="keep everything here, and use the first model that is there")
    parser.add_argument("--only", choices=["scratch", "model"])
    arguments = parser.parse_args()
    require_one_core(parser)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.work or Path(name)
        first = folder / "first_model" / MODEL_FILE_NAME
        if not first.exists():
            prepare(folder, seed=arguments.seed, seconds=arguments.first_seconds)
        records = []
        for seconds in arguments.seconds:
            for seed in arguments.seeds:
                for kind, model in (("scratch", None), ("model", first)):
                    if arguments.only in (None, kind):
                        place = Path(tempfile.mkdtemp(dir=folder)) / kind
                        settings = [f"training.seed={seed}", *(arguments.settings if model else [])]
                        file, steps = train_part(
                            folder / "then", place, seconds=seconds, settings=settings, model=model
                        )
                        scored = measure(file, folder / "unseen_then", place / "maps")
                        records.append({"from": kind, "seconds": seconds, "seed": seed, "steps": steps, **scored})
                        print(json.dumps(records[-1]), flush=True)
    content = {
        "first": {"organs": LEARNED_FIRST, "cases": NUM_FIRST, "seconds": arguments.first_seconds},
        "then": {"organs": LEARNED_THEN, "cases": NUM_THEN},
        "unseen_cases": NUM_UNSEEN,
        "settings": arguments.settings,
        "phantoms_seed": arguments.seed,
        "cores": 1,
        "date": date.today().isoformat(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "runs": records,
    }
    write_json(arguments.output, content)


def prepare(folder: Path, *, seed: int, seconds: float) -> None:
    """Make the phantoms, both datasets and their plans, and train the first model."""
    write_phantom_dataset(folder / "all", num_train=NUM_FIRST + NUM_THEN, num_test=NUM_UNSEEN, seed=seed)
    source = folder / "all" / "dataset"
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTr").glob("*.nii.gz"))
    order = np.random.default_rng(seed).permutation(cases).tolist()
    for name, organs, part in (("first", LEARNED_FIRST, order[NUM_THEN:]), ("then", LEARNED_THEN, order[:NUM_THEN])):
        write_part(source, folder / f"{name}_dataset", cases=part, organs=organs)
        plan_part(folder / f"{name}_dataset", folder / name)
    shutil.copytree(folder / "all" / "unseen" / "images", folder / "unseen_then" / "images")
    for path in (folder / "all" / "unseen" / "labels").glob("*.nii.gz"):
        keep_organs(path, folder / "unseen_then" / "labels" / path.name, organs=LEARNED_THEN)
    train_part(folder / "first", folder / "first_model", seconds=seconds, settings=[])


if __name__ == "__main__":
    main()
