"""autoseg segments CT and MRI scans with a text-guided SAM2 that configures, trains and runs itself.

Functions:
    plan(dataset, run)                          checks a dataset, plans, and preprocesses its scans
    train(run, fold=..., max_minutes=...)       trains one fold, or all cases
    predict_files(scans, run, output)           writes label maps, statistics and a report for many scans
    predict(image, run)                         segments one image in memory
    load_predictor(run)                         loads a model once, for many calls of `predict`
    evaluate(predictions, references)           measures Dice, surface Dice and HD95
    export_model(run, file)                     packs the models of a run into one file

Example:
    >>> import autoseg
    >>> autoseg.plan("my_dataset", "my_run")
    >>> autoseg.train("my_run", max_minutes=60)
    >>> autoseg.predict_files("new_scans", "my_run", "predictions")
    >>> prediction = autoseg.predict("scan.nii.gz", "my_run")
    >>> prediction.labels, prediction.names, prediction.statistics

Classes: `Prediction`, what `predict` returns; `OrganPrompts`, points and a box for an organ; `Callback`, to look on
while a fold trains; `CompoundLoss`, the default loss; `NetworkOutput`, what a network of your own returns;
`ConvolutionalBackbone`, an image backbone without attention, and an example for your own.

Every error that you can do something about is an `AutosegError`, such as `DatasetError`, `UsageError` or
`CheckpointError`; its message says what is wrong, where, and what to do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autoseg.errors import (
    AutosegError,
    CheckpointError,
    DatasetError,
    GeometryError,
    LockedError,
    OutputError,
    PlanError,
    RankLostError,
    ScanFileError,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from autoseg.evaluation import evaluate
    from autoseg.inference.model_loading import load_predictor
    from autoseg.inference.organ_prompts import OrganPrompts
    from autoseg.network.backbones.convolutional import ConvolutionalBackbone
    from autoseg.network.build import build_network
    from autoseg.network.output import NetworkOutput
    from autoseg.pipelines.export_model import export_model
    from autoseg.pipelines.plan import plan
    from autoseg.pipelines.predict import predict_files
    from autoseg.pipelines.predict_array import Prediction, predict
    from autoseg.pipelines.train import train
    from autoseg.training.context import Callback
    from autoseg.training.loss.compound_loss import CompoundLoss

__version__ = "0.1.0"
__all__ = [
    "AutosegError",
    "Callback",
    "CheckpointError",
    "CompoundLoss",
    "ConvolutionalBackbone",
    "DatasetError",
    "GeometryError",
    "LockedError",
    "NetworkOutput",
    "OrganPrompts",
    "OutputError",
    "PlanError",
    "Prediction",
    "RankLostError",
    "ScanFileError",
    "TrainingError",
    "UsageError",
    "__version__",
    "build_network",
    "evaluate",
    "export_model",
    "load_predictor",
    "plan",
    "predict",
    "predict_files",
    "train",
]

# loaded when they are first asked for, since torch takes seconds to import
_MODULES = {
    "Callback": "autoseg.training.context",
    "ConvolutionalBackbone": "autoseg.network.backbones.convolutional",
    "CompoundLoss": "autoseg.training.loss.compound_loss",
    "NetworkOutput": "autoseg.network.output",
    "OrganPrompts": "autoseg.inference.organ_prompts",
    "Prediction": "autoseg.pipelines.predict_array",
    "build_network": "autoseg.network.build",
    "evaluate": "autoseg.evaluation",
    "export_model": "autoseg.pipelines.export_model",
    "load_predictor": "autoseg.inference.model_loading",
    "plan": "autoseg.pipelines.plan",
    "predict": "autoseg.pipelines.predict_array",
    "predict_files": "autoseg.pipelines.predict",
    "train": "autoseg.pipelines.train",
}


def __getattr__(name: str) -> Any:
    """Load a name when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module 'autoseg' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
