"""Runs the commands in this process, so that a fault costs a fraction of a second."""

import contextlib
import io
import logging
from dataclasses import dataclass

from autoseg.cli import evaluate, plan, predict, train

MAINS = {"plan": plan.main, "train": train.main, "predict": predict.main, "evaluate": evaluate.main}

TINY_TRAINING = (
    "network.image_size_px=32",
    "network.feature_channels=16",
    "network.refiner_channels=[4,8]",
    "network.semantic_decoder=false",
    "network.interaction_levels=0",
    "network.injection_stages=[]",
    "network.text.model=learned",
    "training.steps_per_epoch=10",
    "training.batch_slices=2",
)
TINY_OPTIONS = tuple(word for setting in TINY_TRAINING for word in ("--set", setting))


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Its exit code.
        text: Everything that it printed.
    """

    code: int
    text: str


def call_main(verb: str, *arguments: object) -> int:
    """Run `autoseg_VERB` on the CPU and return its exit code."""
    device = () if verb == "evaluate" else ("--device", "cpu")
    code = MAINS[verb]([*map(str, arguments), *device])
    logging.getLogger("autoseg").handlers.clear()
    return code


def run_command(verb: str, *arguments: object) -> Outcome:
    """Run `autoseg_VERB`, for fixtures of a module; the fixture `command` also sees what child processes print."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = call_main(verb, *arguments)
    return Outcome(code, printed.getvalue())
