"""Defines the command `autoseg_evaluate`: its arguments, what it prints, and its exit code."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from autoseg.cli.common import build_parser, run_command
from autoseg.errors import EXIT_DONE, EXIT_SOME_CASES_FAILED, printable

DEFAULT_TOLERANCE_MM = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 3 where some case could not be compared, 4 where none could."""
    return run_command(_parser(), _evaluate, argv)


def _parser() -> argparse.ArgumentParser:
    parser = build_parser(
        "autoseg_evaluate",
        description=(
            "Compare predicted label maps with references: Dice, IoU, surface Dice (NSD) and HD95 per case and organ,\n"
            "means with 95 % intervals. Files are matched by name. A case without a prediction counts as a miss."
        ),
        example="autoseg_evaluate predictions/ my_dataset/labelsTr/ --names my_dataset/dataset.json -o evaluation.json",
    )
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of label maps, or one file")
    parser.add_argument("references", type=Path, metavar="REFERENCES", help="folder of true label maps, or one file")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write everything as JSON to this file")
    parser.add_argument(
        "--tolerance-mm",
        type=float,
        default=DEFAULT_TOLERANCE_MM,
        metavar="MM",
        help="distance up to which a surface counts as right in the NSD (default: %(default)s mm)",
    )
    parser.add_argument(
        "--names",
        type=Path,
        metavar="DATASET_JSON",
        help="dataset.json with the labels and regions to measure (default: all values that occur, with the names "
        "in the predictions)",
    )
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    from autoseg.evaluation.table import table_lines
    from autoseg.pipelines.evaluate import evaluate_files  # here, since --help must not wait for NumPy and SciPy

    output: Path | None = arguments.output
    evaluation = evaluate_files(
        arguments.predictions,
        arguments.references,
        names=arguments.names,
        tolerance_mm=arguments.tolerance_mm,
        output=output,
    )
    print("\n".join(table_lines(evaluation)))
    if output is not None:
        print(f"\nwritten: {printable(str(output))}")
    return EXIT_SOME_CASES_FAILED if evaluation.has_errors else EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
