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
    from autoseg.inference.click_prompts import OrganClicks
    from autoseg.inference.predictor import load_predictor
    from autoseg.pipelines.export_model import export_model
    from autoseg.pipelines.plan import plan
    from autoseg.pipelines.predict import predict_files
    from autoseg.pipelines.predict_array import Prediction, predict
    from autoseg.pipelines.train import train

__version__ = "0.1.0"
__all__ = [
    "OrganClicks",
    "Prediction",
    "__version__",
    "evaluate",
    "export_model",
    "load_predictor",
    "plan",
    "predict",
    "predict_files",
    "train",
]

_HOMES = {
    "OrganClicks": "autoseg.inference.click_prompts",
    "evaluate": "autoseg.evaluation",
    "plan": "autoseg.pipelines.plan",
    "Prediction": "autoseg.pipelines.predict_array",
    "export_model": "autoseg.pipelines.export_model",
    "load_predictor": "autoseg.inference.predictor",
    "predict": "autoseg.pipelines.predict_array",
    "predict_files": "autoseg.pipelines.predict",
    "train": "autoseg.pipelines.train",
}


def __getattr__(name: str) -> Any:
    """Load a verb when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'autoseg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
