"""Runs `autoseg_evaluate`: it compares label maps with references, and writes the result as JSON if asked to.

Owns: the checks of the output file, and the order of the steps.
Does not own: the evaluation (`evaluation/`), the table on the screen (`evaluation/table.py`).
"""

from pathlib import Path

from autoseg.errors import OutputError, UsageError, printable
from autoseg.evaluation import Evaluation, evaluate
from autoseg.evaluation.label_names import read_dataset_labels
from autoseg.system.atomic_files import explain_write_error, read_json, remove_leftovers_of, write_json


def evaluate_files(
    predictions: Path, references: Path, *, names: Path | None, tolerance_mm: float, output: Path | None
) -> Evaluation:
    """Evaluate as `autoseg.evaluate` does, and write the result to a file.

    Args:
        predictions: A folder of label maps, or one file.
        references: A folder of label maps, or one file.
        names: A `dataset.json` that names the labels and regions to measure; None measures all values.
        tolerance_mm: The distance up to which a surface counts as right.
        output: The `.json` file to write; None writes nothing.

    Raises:
        UsageError: The output is not the name of a `.json` file, or a file that is not an evaluation is there.
        OutputError: The output cannot be written.
        AutosegError: As `autoseg.evaluate`.
    """
    if output is not None:
        _check_output(output)
    labels = None if names is None else read_dataset_labels(names)
    evaluation = evaluate(predictions, references, names=labels, tolerance_mm=tolerance_mm)
    if output is not None:
        try:
            remove_leftovers_of(output)
            write_json(output, evaluation.to_json())
        except OSError as error:
            raise OutputError(explain_write_error(error, output)) from error
    return evaluation


def _check_output(output: Path) -> None:
    """Refuse a name that is not of a `.json` file, and to overwrite a file that is not an evaluation."""
    name = printable(str(output))
    if output.is_dir() or output.suffix != ".json":
        raise UsageError(f"-o {name}: expected the name of a .json file, such as evaluation.json.")
    if output.exists() and not _is_evaluation(output):
        raise UsageError(
            f"-o {name}: there is a file that is not an evaluation; it is not overwritten. Choose another name."
        )


def _is_evaluation(path: Path) -> bool:
    try:
        content = read_json(path)
    except UsageError:
        return False
    return isinstance(content, dict) and {"rules", "tolerance_mm", "cases"} <= content.keys()
