"""autoseg: text-guided SAM2 for CT and MRI that configures, trains and runs itself.

The four verbs load what they need when they are called, since torch takes seconds to import:

    import autoseg
    autoseg.plan("dataset/", "run/")
    autoseg.train("run/", max_minutes=10)
    autoseg.predict("run/", "scans/", "predictions/")
    autoseg.evaluate("predictions/", "references/")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoseg.evaluation import evaluate
    from autoseg.inference.clicks import OrganClicks
    from autoseg.inference.command import predict
    from autoseg.planning.command import plan
    from autoseg.training.command import train

__all__ = ["OrganClicks", "evaluate", "plan", "predict", "train"]

_HOMES = {
    "OrganClicks": "autoseg.inference.clicks",
    "evaluate": "autoseg.evaluation",
    "plan": "autoseg.planning.command",
    "predict": "autoseg.inference.command",
    "train": "autoseg.training.command",
}


def __getattr__(name: str) -> Any:
    """Load a verb when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'autoseg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
