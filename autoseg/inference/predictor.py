"""From the scans of one case to its label map on the very grid of the input.

Owns: the way of a case through preprocessing, network and back.
Does not own: reading and writing (`command.py`), the window (`sliding_window.py`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoseg.errors import CheckpointError, UsageError
from autoseg.image_io import Scan
from autoseg.inference.clicks import OrganClicks, place_clicks
from autoseg.inference.sliding_window import predict_slices
from autoseg.inference.specks import clean_labels
from autoseg.network.cores import side_by_side
from autoseg.network.model import AutosegNetwork
from autoseg.network.model_file import MODEL_FILE_NAME, load_model
from autoseg.plans import Plans
from autoseg.preprocessing.case import preprocess_case, undo_preprocessing

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class Predictor:
    """A model ready to predict.

    Attributes:
        networks: One, or one a fold, which are averaged.
        plans: Of the first; the others' agree in all that decides the outputs.
        organs: (K) positions in the plan of the organs asked for.
        device: Where the networks are.
    """

    networks: tuple[AutosegNetwork, ...]
    plans: Plans
    organs: tuple[int, ...]
    device: torch.device

    @property
    def names(self) -> dict[int, str]:
        """Value in the label maps to name, for the organs asked for."""
        return {self.plans.data.organs[k].value: self.plans.data.organs[k].name for k in self.organs}

    def check_clicks(self, clicks: Mapping[str, OrganClicks]) -> None:
        """Check what can be told of clicks before a scan is read.

        Raises:
            UsageError: The model takes none, or one is on no organ asked for.
        """
        if clicks and not self.plans.network.takes_clicks:
            raise UsageError("clicks: this model takes none. Plan with network.takes_clicks=true, and train it.")
        names = list(self.names.values())
        unknown = [name for name in clicks if name not in names]
        if unknown:
            raise UsageError(f"clicks: {unknown[0]!r} is not among the organs asked for: {', '.join(names)}.")

    def predict_scans(self, channels: Sequence[Scan], *, clicks: Mapping[str, OrganClicks] | None = None) -> np.ndarray:
        """Segment one case.

        Args:
            channels: One scan a channel, on one grid, in the plan's order.
            clicks: What a user points at, by the organ's name; for models whose plan has `network.takes_clicks`.

        Returns:
            The label map, zyx on the grid of the first scan, with the dataset's own values.

        Raises:
            UsageError: The model takes no clicks, or a click is on no organ asked for or outside the scan.
        """
        self.check_clicks(clicks or {})
        case = preprocess_case(channels, plan=self.plans.data)
        values = [self.plans.data.organs[k].value for k in self.organs]
        names = [self.plans.data.organs[k].name for k in self.organs]
        placed = place_clicks(clicks, names=names, transform=case.transform) if clicks else None
        with side_by_side(self.device) as cores:
            slices = predict_slices(
                self.networks,
                case.image,
                plans=self.plans,
                organs=self.organs,
                device=self.device,
                clicks=placed,
                cores=cores,
            )
            labels = undo_preprocessing(slices, transform=case.transform, organ_values=values)
        clean_labels(labels, plans=self.plans)
        return labels


def load_predictor(model: Path, *, labels: Sequence[str] = (), device: torch.device) -> Predictor:
    """Load a model file, or the models of a run folder.

    Args:
        model: `model.safetensors`, a fold's folder, or a run folder: then the model trained on all cases, or where
            there is none the average of the folds.
        labels: Names of the organs asked for; none means all.
        device: Where to predict.

    Raises:
        CheckpointError: There is no model there, or it is damaged.
        UsageError: The model does not know a label.
    """
    loaded = [load_model(path, device=device) for path in find_model_files(model)]
    plans = loaded[0][1]
    for _network, other in loaded[1:]:
        if other.data != plans.data or other.network != plans.network:
            raise CheckpointError(f"{model}: the folds were trained under different plans. Name one fold's model file.")
    names = [organ.name for organ in plans.data.organs]
    unknown = [label for label in labels if label not in names]
    if unknown:
        raise UsageError(f"--labels: the model does not know {', '.join(unknown)}. It knows: {', '.join(names)}.")
    organs = tuple(k for k, name in enumerate(names) if not labels or name in labels)
    return Predictor(networks=tuple(network for network, _ in loaded), plans=plans, organs=organs, device=device)


def find_model_files(model: Path) -> list[Path]:
    """Find the model files that a path stands for.

    Raises:
        CheckpointError: There is none.
    """
    if model.is_file():
        return [model]
    for folder in (model, model / "fold_all"):
        if (folder / MODEL_FILE_NAME).is_file():
            return [folder / MODEL_FILE_NAME]
    folds = sorted(model.glob(f"fold_*/{MODEL_FILE_NAME}"))
    if not folds:
        raise CheckpointError(f"{model}: there is no {MODEL_FILE_NAME} here. Train first: autoseg_train {model}")
    log.info("averaging %d folds", len(folds))
    return folds
