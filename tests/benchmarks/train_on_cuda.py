"""One run on a GPU: cases held out, then plan, train, predict and evaluate; Dice, steps, seconds and peak memory.

    python tests/benchmarks/train_on_cuda.py DATASET --held-out 40 --minutes 7 --set network.backbone=tiny \
        -o docs/results/hippocampus_cuda.json

Cases are held out by the same seeded draw as in `train_vs_monai.py`. What the verbs say goes to stderr.
"""

import logging
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import torch
from command_line import make_parser
from train_vs_monai import hold_out, summarize

import autoseg
from autoseg.system.atomic_files import write_json
from autoseg.training.logging.metrics_log import read_metrics

T = TypeVar("T")
GIB = 2**30


def timed(verb: Callable[[], T]) -> tuple[T, float]:
    """Call and return the result with the seconds that it took."""
    start = time.monotonic()
    result = verb()
    return result, round(time.monotonic() - start, 1)


def main() -> None:
    """Run it and write the JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--held-out", type=int, required=True)
    parser.add_argument("--seed", type=int, default=2026, help="of the draw of held-out cases")
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as name:
        run, maps = Path(name) / "run", Path(name) / "maps"
        training, images, labels = hold_out(
            arguments.dataset, Path(name), count=arguments.held_out, seed=arguments.seed
        )
        plans, plan_seconds = timed(lambda: autoseg.plan(training, run, device="cuda", settings=arguments.settings))
        trained, train_seconds = timed(lambda: autoseg.train(run, max_minutes=arguments.minutes, device="cuda"))
        peak = torch.cuda.max_memory_allocated() / GIB
        _, predict_seconds = timed(lambda: autoseg.predict_files(images, run, maps, device="cuda"))
        waiting = [record["fraction_waiting_for_data"] for record in read_metrics(run / "fold_all" / "metrics.jsonl")]
        content: dict[str, Any] = {
            "dataset": arguments.dataset.name,
            "held_out": arguments.held_out,
            "seed": arguments.seed,
            "settings": arguments.settings,
            "date": date.today().isoformat(),
            "machine": f"{torch.cuda.get_device_name()}, {platform.machine()}, torch {torch.__version__}",
            "minutes": arguments.minutes,
            "network": plans.network.model_dump(mode="json"),
            "batch_slices": plans.training.batch_slices,
            "steps": trained.steps,
            "seconds": {"plan": plan_seconds, "train": train_seconds, "predict": predict_seconds},
            "fraction_waiting_for_data": round(sum(waiting) / len(waiting), 4),
            "peak_gib": round(peak, 2),
            **summarize(autoseg.evaluate(maps, labels)),
        }
    write_json(arguments.output, content)
    print(f"mean Dice {content['mean_dice']:.4f} after {trained.steps} steps", flush=True)


if __name__ == "__main__":
    main()
