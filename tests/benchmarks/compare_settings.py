"""One plan with some changes: trained on most of a run's cases, measured on the others; a line of JSON each time.

    python tests/benchmarks/compare_settings.py RUN REFERENCES --left-out 20 -o docs/results/settings.jsonl \
        --set training.refiner_optimizer=adamw

For choosing between settings without looking at held-out cases: RUN is planned from the training cases alone, and some
of these are left out here by a seeded draw. It works on one core: `taskset -c 0` and `taskset -c 1` run two settings
side by side. Seconds are those that the process computes (of all its threads), so that other work on the machine takes
nothing away.
"""

import json
import tempfile
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from command_line import make_parser, require_one_core

from autoseg.config.overrides import apply_overlay, apply_settings, read_overlay
from autoseg.config.plans import Plans, read_plans
from autoseg.evaluation import evaluate
from autoseg.preprocessing.store import CaseStore
from autoseg.training import trainer
from autoseg.training.checkpointing.init_from_model import StartingModel
from autoseg.training.context import Length, TrainingContext
from autoseg.training.state import TrainState
from autoseg.training.trainer import train_fold
from autoseg.training.validation.validate_case import clean_validation_map, write_validation_map

CPU = torch.device("cpu")
ALL_STEPS = 10**9  # the time ends a run, not its steps

ABLATIONS = Path(__file__).with_name("ablations.json")


def split(cases: list[str], *, left_out: int, seed: int) -> tuple[list[str], list[str]]:
    """Draw the cases to leave out; returns those to train on and them."""
    order = np.random.default_rng(seed).permutation(sorted(cases))
    return sorted(order[left_out:].tolist()), sorted(order[:left_out].tolist())


def train_for(
    seconds: float,
    plans: Plans,
    store: CaseStore,
    cases: list[str],
    *,
    folder: Path,
    start: StartingModel | None = None,
) -> TrainState:
    """Train on some cases, as `autoseg_train` does, for some seconds of computing."""
    context = TrainingContext(
        plans=plans,
        folder=folder,
        store=store,
        training_cases=tuple(cases),
        validation_cases=(),
        seen_in_training=True,
        length=Length(steps=ALL_STEPS, seconds=seconds),
        cache_bytes=4 * 1024**3,
        start=start,
    )
    with mock.patch.object(trainer, "time", SimpleNamespace(monotonic=time.process_time)):
        return train_fold(context)


def main() -> None:
    """Train, predict the cases left out, and append a line to the output."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="made by autoseg_plan from the training cases")
    parser.add_argument("references", type=Path, help="their label maps")
    parser.add_argument("--left-out", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--seed", type=int, default=5, help="of the draw")
    parser.add_argument(
        "--overlay", nargs="+", default=[], dest="overlays", help="names in ablations.json or of autoseg's own"
    )
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    arguments = parser.parse_args()
    require_one_core(parser)
    plans = read_plans(arguments.run / "plans.json")
    ablations = json.loads(ABLATIONS.read_text(encoding="utf-8"))
    for overlay in arguments.overlays:
        content = ablations[overlay] if overlay in ablations else read_overlay(overlay)[1]
        plans = apply_overlay(plans, content, source=overlay)
    plans = apply_settings(plans, arguments.settings)
    store = CaseStore(arguments.run / "preprocessed", data_hash=plans.data.hash())
    training, left_out = split(store.case_ids(), left_out=arguments.left_out, seed=arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        state = train_for(arguments.seconds, plans, store, training, folder=Path(name))
        maps, references = Path(name) / "maps", Path(name) / "references"
        references.mkdir()
        for case in left_out:
            write_validation_map(state.averaged, store, case, plans=plans, device=CPU, folder=maps)
            clean_validation_map(maps / f"{case}.nii.gz", plans=plans)
            (references / f"{case}.nii.gz").symlink_to((arguments.references / f"{case}.nii.gz").resolve())
        scored = evaluate(maps, references)
    record = {
        "dataset": plans.dataset_name,
        "overlays": arguments.overlays,
        "settings": arguments.settings,
        "seconds": arguments.seconds,
        "cores": 1,
        "trained_on": len(training),
        "left_out": len(left_out),
        "steps": state.step,
        "mean_dice": round(scored.mean_dice, 4),
        "date": date.today().isoformat(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    print(json.dumps(record))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with arguments.output.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
