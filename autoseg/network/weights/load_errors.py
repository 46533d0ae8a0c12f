"""What is said of a file of weights that torch, safetensors or open_clip would not load.

Owns: `explain_load_failure`.

torch advises to load such a file without its guard against code. Nothing of autoseg does that, so nobody is told to.
"""

MOST_LETTERS = 600
REFUSED_BY_TORCH = "UnpicklingError"  # by name: whatever reads pickles stays out of this package
REFUSED_MARK = "weights_only"


def explain_load_failure(error: BaseException) -> str:
    """Say in one line, without its full stop, why a file was not loaded."""
    if type(error).__name__ == REFUSED_BY_TORCH or REFUSED_MARK in str(error):
        return "it is no file of tensors and plain values alone, and what else it holds is not run"
    return " ".join(str(error).split())[:MOST_LETTERS].rstrip(".") or type(error).__name__
