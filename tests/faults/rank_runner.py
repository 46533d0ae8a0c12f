"""One rank of `autoseg_train`, which may kill itself: `python rank_runner.py STEP RUN OPTION ..`; STEP none: never."""

import os
import signal
import sys
from typing import Any

from autoseg.cli.train import main
from autoseg.training import trainer


def kill_at(step: int) -> None:
    """Let this process die, as by the system, when it is about to do a step."""
    real = trainer.train_step

    def train_step(state: Any, *arguments: Any, **named: Any) -> Any:
        if state.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(state, *arguments, **named)

    trainer.train_step = train_step


if __name__ == "__main__":
    if sys.argv[1] != "none":
        kill_at(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
