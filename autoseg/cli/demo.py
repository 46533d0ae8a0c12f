"""`autoseg_demo`: everything once, on synthetic scans, in six minutes.

Owns: the command's arguments, what it prints and its exit code.
Does not own: the work (`demo/tour.py`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.common import build_parser, run_command
from autoseg.errors import EXIT_DONE, EXIT_SOME_CASES_FAILED, UsageError, printable

if TYPE_CHECKING:
    from autoseg.demo.tour import TourResult


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser(
        "autoseg_demo",
        description="Make synthetic CT and MRI scans, plan, train, predict unseen scans, compare the results with the\n"
        "references, and draw pictures. It takes six minutes on two cores, and needs no data, no GPU and no network.\n"
        "The same command continues a demo that was stopped.",
        example="autoseg_demo -o autoseg_demo",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("autoseg_demo"), metavar="FOLDER", help="default: ./autoseg_demo"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if available (default)"
    )
    parser.add_argument("--max-minutes", type=float, metavar="M", help="minutes of training (default: 4 min 10 s)")
    return run_command(parser, _demo, argv)


def _demo(arguments: argparse.Namespace) -> int:
    from autoseg.demo.tour import TRAINING_MINUTES, run_tour  # here, not above: --help must not wait for NumPy

    minutes = TRAINING_MINUTES if arguments.max_minutes is None else arguments.max_minutes
    if not 0 < minutes < 1e6:
        raise UsageError(f"--max-minutes {minutes}: expected a number above 0.")
    result = run_tour(arguments.output, device=arguments.device, max_minutes=minutes)
    print("\n".join(_summarize(result)))
    return EXIT_SOME_CASES_FAILED if result.evaluation.has_errors else EXIT_DONE


def _summarize(result: "TourResult") -> list[str]:
    from autoseg.demo.tour import SYNTHETIC
    from autoseg.evaluation.table import table_lines

    dice, folder = result.evaluation.mean_dice, printable(str(result.folder))
    return [
        "",
        *table_lines(result.evaluation),
        "",
        f"{SYNTHETIC} The figures say that everything works, not how well it does on patients.",
        f"mean Dice of {len(result.evaluation.names)} organs on {len(result.evaluation.cases)} unseen phantoms: "
        f"{'none' if dice is None else format(dice, '.3f')}, after {result.seconds / 60:.1f} minutes in all",
        f"pictures      {folder}/pictures (start with overview.png)",
        f"label maps    {folder}/predictions",
        f"model         {folder}/run/fold_all/model.safetensors",
        f"the plan      {folder}/run/plans.json (why: autoseg_plan -o {folder}/run --explain network)",
        "next          autoseg_plan YOUR_DATASET -o RUN",
    ]


if __name__ == "__main__":
    sys.exit(main())
