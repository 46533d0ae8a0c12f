"""Loads the model of a file or a run folder, ready to predict.

Owns: `load_predictor`, `find_model_files`, and the settings that may be changed in a finished model.
Does not own: how a case is predicted (`predictor.py`), the form of the file (`network/weights/model_file.py`).
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from autoseg.config.overrides import apply_settings
from autoseg.errors import CheckpointError, UsageError
from autoseg.inference.modality import find_modality_number
from autoseg.inference.predictor import Predictor
from autoseg.network.weights.model_file import MODEL_FILE_NAME, BuildNetwork, load_models, most_validated
from autoseg.system.out_of_memory import is_out_of_memory
from autoseg.system.torch_device import choose_device

MOST_FOLD_LETTERS = 20  # "all", or a number

log = logging.getLogger("autoseg")


def load_predictor(
    model: Path | str,
    *,
    organs: Sequence[str] | str = (),
    device: torch.device | str = "auto",
    fold: str | None = None,
    modality: str | None = None,
    build_network: BuildNetwork | None = None,
) -> Predictor:
    """Load a model file, or the models of a run folder.

    Args:
        model: A `model.safetensors`, a fold's folder, or a run folder, which means the model trained on all cases or
            else the average of the folds.
        organs: The names of the organs or regions to find; none means all.
        device: The device to predict on: auto, cpu or cuda.
        fold: The fold of a run folder: "all", "0", "1", ..; None as above.
        modality: The modality of all scans, for a model of several: ct, mri, ..; None finds it by intensities.
        build_network: The function that built the model's network, if it was not autoseg's own.

    Raises:
        CheckpointError: There is no model there, or it is damaged.
        UsageError: The model does not know an organ, or the modality.

    Example:
        >>> predictor = autoseg.load_predictor("my_run", organs=["liver"])
        >>> for path in paths:
        ...     prediction = autoseg.predict(path, predictor)
    """
    model = Path(model)
    device = device if isinstance(device, torch.device) else choose_device(device)
    paths = find_model_files(model, fold=fold)
    if len(paths) > 1:
        log.info("averaging %d folds", len(paths))
    try:
        loaded = [load_models(path, device=device, build_network=build_network) for path in paths]
    except RuntimeError as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
        message = str(error).partition("\n")[0]
        log.warning("the memory of %s is too full for the model; predicting on the CPU (%s).", device, message)
        device = torch.device("cpu")
        loaded = [load_models(path, device=device, build_network=build_network) for path in paths]
    plans = loaded[0][1]
    for _networks, other in loaded[1:]:
        if other.data != plans.data or other.network != plans.network:
            raise CheckpointError(f"{model}: the folds were trained under different plans. Name one fold's model file.")
    plans = most_validated([other for _, other in loaded])
    names = [organ.name for organ in plans.data.organs]
    regions = {region.name: region.organs for region in plans.data.regions}
    asked = [organs] if isinstance(organs, str) else organs
    asked = [organ for name in asked for organ in regions.get(name, (name,))]
    unknown = [name for name in asked if name not in names]
    if unknown:
        known = ", ".join([*names, *regions])
        raise UsageError(f"--organs: the model does not know {', '.join(unknown)}. Choose from: {known}.")
    positions = tuple(k for k, name in enumerate(names) if not asked or name in asked)
    networks = tuple(network for part, _ in loaded for network in part)
    number = find_modality_number(plans.data, modality)
    return Predictor(networks=networks, plans=plans, organs=positions, device=device, modality=number)


def with_settings(predictor: Predictor, settings: Sequence[str]) -> Predictor:
    """Change the plan of a predictor.

    Args:
        predictor: The predictor.
        settings: Words such as "inference.window_overlap=0.25".

    Raises:
        UsageError: A setting is not in the inference part of the plan.
        PlanError: A name or value is not valid.
    """
    for setting in settings:
        if not setting.startswith("inference."):
            raise UsageError(f"--set {setting}: at prediction only inference.* may be changed. Leave it out.")
    return replace(predictor, plans=apply_settings(predictor.plans, settings))


def find_model_files(model: Path, *, fold: str | None = None) -> list[Path]:
    """Find the model files that a path stands for.

    Args:
        model: A model file, a fold's folder or a run folder.
        fold: The only fold of a run folder to use: "all", "0", ..

    Raises:
        CheckpointError: There is no model.
    """
    if fold is not None:
        path = model / f"fold_{fold}" / MODEL_FILE_NAME
        if len(fold) > MOST_FOLD_LETTERS or not path.is_file():
            there = ", ".join(
                path.parent.name.removeprefix("fold_") for path in sorted(model.glob(f"fold_*/{MODEL_FILE_NAME}"))
            )
            raise CheckpointError(
                f"{model} has no trained fold {fold!r:.40}; it has: {there or 'none'}. Name one of these, or train it."
            )
        return [path]
    if model.is_file():
        return [model]
    for folder in (model, model / "fold_all"):
        if (folder / MODEL_FILE_NAME).is_file():
            return [folder / MODEL_FILE_NAME]
    folds = sorted(path for path in model.glob(f"fold_*/{MODEL_FILE_NAME}") if path.is_file())
    if not folds:
        raise CheckpointError(f"{model}: there is no {MODEL_FILE_NAME} here. Train first, with autoseg_train {model}.")
    return folds
