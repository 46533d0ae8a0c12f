"""What the settings of prediction are worth: one model, the cases that its fold left out, several settings.

    python tests/benchmarks/prediction_settings.py RUN IMAGES REFERENCES -o docs/results/prediction_settings.json

RUN is trained with `--fold 0`; its dataset's images and label maps are in IMAGES and REFERENCES. Each setting takes
the whole way from files to label maps on one core (`taskset -c 0`). Of each: mean Dice over the organs, its mean
difference to the plan's own settings over the cases with the 95 % interval (Student's t), and seconds that the process
computes a case. OUTPUT holds one entry a dataset; other entries stay.
"""

import json
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import make_parser, require_one_core
from scipy import stats

from autoseg.config.plans import read_plans
from autoseg.evaluation import Evaluation, evaluate
from autoseg.pipelines.predict import predict_files
from autoseg.system.atomic_files import write_json

AS_PLANNED = "as planned"
SETTINGS: dict[str, tuple[str, ...]] = {
    AS_PLANNED: (),
    "not mirrored": ("inference.mirror_axes=[]",),
    "windows overlap by a quarter": ("inference.window_overlap=0.25",),
    "windows overlap by three quarters": ("inference.window_overlap=0.75",),
    "both quicker ones": ("inference.mirror_axes=[]", "inference.window_overlap=0.25"),
    "specks stay": ("inference.component_filter=[]",),
}


def link_cases(cases: list[str], source: Path, folder: Path) -> Path:
    """Make a folder of links to the files of some cases."""
    folder.mkdir()
    for path in source.iterdir():
        if any(path.name.startswith((f"{case}.", f"{case}_0")) for case in cases):
            (folder / path.name).symlink_to(path.resolve())
    return folder


def dice_of_cases(evaluation: Evaluation) -> np.ndarray:
    """Return the mean Dice over the organs of each case."""
    return np.array([case.mean("dice") for case in sorted(evaluation.cases, key=lambda case: case.case_id)])


def summarize(dice: np.ndarray, planned: np.ndarray) -> dict[str, Any]:
    """Compare the cases with the same ones as planned."""
    difference = dice - planned
    margin = stats.t.ppf(0.975, len(dice) - 1) * difference.std(ddof=1) / len(dice) ** 0.5
    low, high = difference.mean() - margin, difference.mean() + margin
    return {
        "mean_dice": round(float(dice.mean()), 4),
        "difference": round(float(difference.mean()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }


def main() -> None:
    """Predict with each setting, measure, and write the dataset's entry."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("references", type=Path)
    arguments = parser.parse_args()
    require_one_core(parser)
    cases = json.loads((arguments.run / "splits.json").read_text())[0]["validation"]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        images = link_cases(cases, arguments.images, Path(name) / "images")
        references = link_cases(cases, arguments.references, Path(name) / "references")
        planned = np.array([])
        for number, (words, settings) in enumerate(SETTINGS.items()):
            maps = Path(name) / f"maps_{number}"
            start = time.process_time()
            predict_files(images, arguments.run, maps, device="cpu", fold="0", settings=settings)
            seconds = time.process_time() - start
            dice = dice_of_cases(evaluate(maps, references))
            planned = dice if words == AS_PLANNED else planned
            results[words] = {**summarize(dice, planned), "seconds_a_case": round(seconds / len(cases), 2)}
            print(words, results[words], flush=True)
    plans = read_plans(arguments.run / "plans.json")
    content = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    content[plans.dataset_name] = {
        "cases": len(cases),
        "planned": plans.inference.model_dump(
            mode="json", include={"mirror_axes", "window_overlap", "component_filter"}
        ),
        "settings": results,
        "date": date.today().isoformat(),
        "machine": f"one core, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
