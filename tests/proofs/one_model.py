"""One model of several datasets against the models of each alone, for as many steps on each dataset.

    python tests/proofs/one_model.py ../shared/data/hippocampus_mri ../shared/data/left_atrium_mri SAMPLES \
        --held-out 40 4 0 --steps 2600 -o docs/results/one_model.json

SAMPLES is what `python -m dataset_conversion.totalsegmentator_samples` makes of the labeled CT and MR scans. Cases are
held out first, by a seeded draw. The joint run is planned with one command and trained for `--steps` steps; each model
of one dataset gets the steps that the joint one spent on it (its fraction of them). All predict the held-out cases.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from joint_model_runs import autoseg, describe_machine, dice_by_name, hold_out, mean_of, run_proof, train_all


def main() -> None:
    """Run it and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--held-out", type=int, nargs="+", required=True, help="cases of each; 0: not compared")
    parser.add_argument("--steps", type=int, required=True, help="of the joint run")
    parser.add_argument("--seed", type=int, default=2026, help="of the draw of held-out cases")
    parser.add_argument("--set", nargs="+", default=[], dest="settings", help="plan settings for all runs")
    run_proof(parser, run)


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Hold out, plan, train, predict and compare."""
    parts = {
        path.name: hold_out(path, folder, count=count, seed=arguments.seed)
        for path, count in zip(arguments.datasets, arguments.held_out, strict=True)
    }
    compared = [name for name, count in zip(parts, arguments.held_out, strict=True) if count]
    plan_words = [word for setting in arguments.settings for word in ("--set", setting)]
    runs = {"joint": folder / "runs" / "joint"}
    autoseg(
        "plan",
        *(part.dataset for part in parts.values()),
        "-o",
        runs["joint"],
        "--device",
        arguments.plan_for,
        *_steps(arguments.steps),
        *plan_words,
    )
    plan = json.loads((runs["joint"] / "plans.json").read_text())
    fractions = {one["dataset"]: one["fraction"] for one in plan["training"]["dataset_sampling_fractions"]}
    steps = {"joint": arguments.steps, **{name: round(fractions[name] * arguments.steps) for name in compared}}
    for name in compared:
        runs[name] = folder / "runs" / name
        words = ["-o", runs[name], "--device", arguments.plan_for, *_steps(steps[name]), *plan_words]
        autoseg("plan", parts[name].dataset, *words)
    start = time.monotonic()
    train_all(runs, steps=steps, device=arguments.device, at_once=arguments.at_once)
    seconds = time.monotonic() - start
    organs: dict[str, dict[str, Any]] = {}
    for name in compared:
        organs[name] = {}
        for model in ("joint", name):
            output = folder / "predictions" / f"{name}_by_{model}"
            autoseg("predict", "-m", runs[model], "-i", parts[name].images, "-o", output, "--device", arguments.device)
            organs[name]["joint" if model == "joint" else "alone"] = dice_by_name(output, parts[name].labels)
    means = {name: {model: mean_of(dice) for model, dice in found.items()} for name, found in organs.items()}
    return {
        **describe_machine(arguments),
        "steps": steps,
        "shares": fractions,
        "held_out": dict(zip(parts, arguments.held_out, strict=True)),
        "seed": arguments.seed,
        "settings": arguments.settings,
        "grid": plan["data"]["target_spacing_zyx_mm"],
        "training_seconds_in_parallel": round(seconds, 1),
        "mean_dice": {
            name: {**found, "joint_minus_alone": found["joint"] - found["alone"]} for name, found in means.items()
        },
        "dice_of_cases": organs,
    }


def _steps(count: int) -> list[str]:
    return ["--set", f"training.steps_per_epoch={count}", "--set", "training.epochs=1"]


if __name__ == "__main__":
    main()
