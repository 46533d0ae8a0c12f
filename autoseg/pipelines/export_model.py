"""Runs `autoseg.export_model`: it packs the models of a run folder into one file.

Does not own: the form of the file (`weights/model_file.py`).
"""

from pathlib import Path

from autoseg.errors import OutputError, UsageError
from autoseg.inference.model_loading import find_model_files
from autoseg.network.weights.model_file import pack_models
from autoseg.system.atomic_files import explain_write_error, remove_leftovers_of


def export_model(run_folder: Path | str, file: Path | str, *, fold: str | None = None) -> int:
    """Pack the models of a run folder into one file, which predicts as the folder does.

    Args:
        run_folder: A run folder with the model trained on all cases, or else with models of folds, which are averaged.
        file: The file to write, which ends in `.safetensors`.
        fold: The only fold to pack: "all", "0", ..

    Returns:
        The number of models in the file.

    Raises:
        UsageError: The name has another ending.
        OutputError: The file cannot be written; an earlier file stays.
        CheckpointError: There is no model, one is damaged, or they were trained with different plans.

    Example:
        >>> autoseg.export_model("my_run", "my_model.safetensors")
        1
        >>> autoseg.predict_files("new_scans", "my_model.safetensors", "predictions")
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
