"""Explains why torch, safetensors or open_clip did not load a file of weights.

torch's own message advises loading without the guard against code, which autoseg never does, so it is replaced.
"""

MOST_LETTERS = 600
REFUSED_BY_TORCH = "UnpicklingError"  # by name: whatever reads pickles stays out of this package
REFUSED_MARK = "weights_only"


def explain_load_failure(error: BaseException) -> str:
    """Say in one line, without its full stop, why a file was not loaded."""
    if type(error).__name__ == REFUSED_BY_TORCH or REFUSED_MARK in str(error):
        return "it is no file of tensors and plain values alone, and what else it holds is not run"
    return " ".join(str(error).split())[:MOST_LETTERS].rstrip(".") or type(error).__name__
