"""`autoseg.export_model`: one file out of all that predicts in a run folder.

Owns: nothing but the way from a run folder to that file; its form is `weights/model_file.py`'s.
"""

from pathlib import Path

from autoseg.errors import OutputError, UsageError
from autoseg.inference.model_loading import find_model_files
from autoseg.network.weights.model_file import pack_models
from autoseg.system.atomic_files import explain_write_error, remove_leftovers_of


def export_model(run_folder: Path | str, file: Path | str, *, fold: str | None = None) -> int:
    """Pack the models of a run folder into one file, which predicts as the folder does.

    Args:
        run_folder: With the model trained on all cases, or else with folds, whose average is meant.
        file: Ends in `.safetensors`.
        fold: That one alone: "all", "0", ..

    Returns:
        The number of models in it.

    Raises:
        UsageError: The name has another ending.
        OutputError: It cannot be written; a file that was there stays.
        CheckpointError: There is no model, one is damaged, or they were trained under different plans.
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise UsageError(f"--export {file}: expected a name that ends in .safetensors.")
    paths = find_model_files(Path(run_folder), fold=fold)
    try:
        remove_leftovers_of(file)
        pack_models(paths, file)
    except OSError as error:
        raise OutputError(f"--export {explain_write_error(error, file)}") from error
    return len(paths)
