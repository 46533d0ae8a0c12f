"""Defines the command `autoseg_train`, which trains a planned run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autoseg.cli.common import build_parser, run_command
from autoseg.distributed.ranks import is_main_rank
from autoseg.errors import EXIT_DONE, printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser(
        "autoseg_train",
        description="Train the model of a run folder. The same command continues a run that was stopped. Under "
        "torchrun all processes train together.",
        example="autoseg_train RUN --max-minutes 10",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder made by autoseg_plan")
    parser.add_argument("--fold", help="all: train on every case; 0, 1, ..: leave a fold out (default: all)")
    parser.add_argument("--epochs", type=int, metavar="N", help="length in epochs (default: the plan's)")
    parser.add_argument("--max-minutes", type=float, metavar="M", help="length in minutes of training instead")
    parser.add_argument(
        "--from",
        type=Path,
        dest="start_from",
        metavar="MODEL",
        help="start from the weights of a finished model: its .safetensors file, or its run folder",
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA if available), cpu, cuda (default: auto)")
    parser.add_argument(
        "--offline", action="store_true", help="use no network: pretrained weights only from the hub's cache"
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="train nothing: pack the model trained on all cases, or else all folds, into one .safetensors file",
    )
    return run_command(parser, _train, argv)


def _train(arguments: argparse.Namespace) -> int:
    if arguments.export is not None:
        return _export(arguments)
    from autoseg.pipelines.train import train  # torch is loaded only when there is work

    result = train(
        arguments.run,
        fold=arguments.fold or "all",
        epochs=arguments.epochs,
        max_minutes=arguments.max_minutes,
        device=arguments.device,
        offline=arguments.offline,
        start_from=arguments.start_from,
    )
    if not is_main_rank():
        return EXIT_DONE  # the first rank speaks for all
    model = printable(str(result.folder / "model.safetensors"))
    print(f"{result.steps} steps in {result.seconds / 60:.1f} minutes; the model is {model}")
    if result.fraction_waiting_for_data is not None:
        print(f"{100 * result.fraction_waiting_for_data:.1f} % of the time was spent waiting for data")
    for organ, dice in result.dice.items():
        print(f"  validation Dice {'none' if dice is None else format(dice, '.3f')}  {printable(organ)}")
    print(f"next: autoseg_predict -m {printable(str(arguments.run))} -i SCANS -o PREDICTIONS")
    return EXIT_DONE


def _export(arguments: argparse.Namespace) -> int:
    from autoseg.pipelines.export_model import export_model

    count = export_model(arguments.run, arguments.export, fold=arguments.fold)
    file = printable(str(arguments.export))
    print(f"{count} {'model is' if count == 1 else 'models are'} in {file}")
    print(f"next: autoseg_predict -m {file} -i SCANS -o PREDICTIONS")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
