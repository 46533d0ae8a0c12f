"""autoseg: text-guided SAM2 for CT and MRI that configures, trains and runs itself.

The verbs load what they need when they are called, since torch takes seconds to import:

    import autoseg
    autoseg.plan("dataset/", "run/")
    autoseg.train("run/", max_minutes=10)
    autoseg.predict_files("scans/", "run/", "predictions/")
    autoseg.evaluate("predictions/", "references/")

and for one image in memory, nibabel's, SimpleITK's or an array with its affine:

    prediction = autoseg.predict(image, "run/")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoseg.evaluation import evaluate
    from autoseg.inference.clicks import OrganClicks
    from autoseg.inference.predictor import load_predictor
    from autoseg.planning.command import plan
    from autoseg.prediction.command import predict_files
    from autoseg.prediction.export import export
    from autoseg.prediction.in_memory import Prediction, predict
    from autoseg.training.command import train

__all__ = [
    "OrganClicks",
    "Prediction",
    "evaluate",
    "export",
    "load_predictor",
    "plan",
    "predict",
    "predict_files",
    "train",
]

_HOMES = {
    "OrganClicks": "autoseg.inference.clicks",
    "evaluate": "autoseg.evaluation",
    "plan": "autoseg.planning.command",
    "Prediction": "autoseg.prediction.in_memory",
    "export": "autoseg.prediction.export",
    "load_predictor": "autoseg.inference.predictor",
    "predict": "autoseg.prediction.in_memory",
    "predict_files": "autoseg.prediction.command",
    "train": "autoseg.training.command",
}


def __getattr__(name: str) -> Any:
    """Load a verb when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'autoseg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
