"""`autoseg_evaluate`: predictions against references, as a table and as JSON.

Owns: the command's arguments, what it prints and its exit code.
Does not own: the evaluation (`autoseg.evaluation`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from autoseg.cli.common import build_parser, run_command
from autoseg.errors import EXIT_DONE, EXIT_SOME_CASES_FAILED, OutputError, UsageError, printable

DEFAULT_TOLERANCE_MM = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 3 where some case could not be compared, 4 where none could."""
    return run_command(_parser(), _evaluate, argv)


def _parser() -> argparse.ArgumentParser:
    parser = build_parser(
        "autoseg_evaluate",
        description=(
            "Compare predicted label maps with references: Dice, IoU, surface Dice (NSD) and HD95 per case and organ,\n"
            "means with 95 % intervals. Files belong together by name. A case without a prediction counts as a miss."
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
        help="dataset.json that names the labels and regions: exactly these are measured; "
        "default: all values that occur, with the names that the predictions carry",
    )
    return parser


def _is_evaluation(path: Path) -> bool:
    """Say whether a file is what this command writes, so that it may be written again."""
    from autoseg.system.atomic_files import read_json

    try:
        content = read_json(path)
    except UsageError:
        return False
    return isinstance(content, dict) and {"rules", "tolerance_mm", "cases"} <= content.keys()


def _evaluate(arguments: argparse.Namespace) -> int:
    from autoseg.evaluation import evaluate  # here, not above: --help must not wait for NumPy and SciPy
    from autoseg.evaluation.label_names import read_dataset_labels
    from autoseg.evaluation.table import table_lines
    from autoseg.system.atomic_files import explain_write_error, remove_leftovers_of, write_json

    output: Path | None = arguments.output
    if output is not None and (output.is_dir() or output.suffix != ".json"):
        raise UsageError(f"-o {printable(str(output))}: expected the name of a .json file, such as evaluation.json.")
    if output is not None and output.exists() and not _is_evaluation(output):
        raise UsageError(
            f"-o {printable(str(output))}: there is a file that is no evaluation; it is not overwritten. Choose "
            "another name."
        )
    labels = read_dataset_labels(arguments.names) if arguments.names is not None else None
    evaluation = evaluate(
        arguments.predictions,
        arguments.references,
        names=labels,
        tolerance_mm=arguments.tolerance_mm,
    )
    print("\n".join(table_lines(evaluation)))
    if output is not None:
        try:
            remove_leftovers_of(output)
            write_json(output, evaluation.to_json())
        except OSError as error:
            raise OutputError(explain_write_error(error, output)) from error
        print(f"\nwritten: {printable(str(output))}")
    return EXIT_SOME_CASES_FAILED if evaluation.has_errors else EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
