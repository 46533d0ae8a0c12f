"""One run of the soak test: `autoseg_train` with faults put into it from outside, at the steps that a list names.

    python soak_runner.py RUN FOLD EPOCHS FAULTS LEDGER RUN_NUMBER SECONDS_BETWEEN_SAVES

Owns: how each fault is made. A fault is written into the ledger, and flushed, right before it is made, so that a later
run does not make it again. Does not own: which faults, when, and what must come of them (`soak.py`).
"""

import dataclasses
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from autoseg.cli.train import main as train_main
from autoseg.distributed import local_ranks
from autoseg.training import step as step_module
from autoseg.training import trainer
from autoseg.training.checkpointing import checkpoints

BURST = 5  # bad batches in a row that are skipped
STARTED: list[Any] = []  # the ranks of the other cores
LONG_BURST = trainer.MAX_BAD_STEPS + 4  # more than that: the run is rolled back


class Faults:
    """The faults that are left, and those that have begun."""

    def __init__(self, faults: Path, ledger: Path, *, run: int) -> None:
        self.ledger, self.run = ledger, run
        done = {json.loads(line)["id"] for line in ledger.read_text().splitlines()} if ledger.exists() else set()
        self.left = [fault for fault in json.loads(faults.read_text()) if fault["id"] not in done]
        self.bad_left = 0
        self.memory_is_full = False
        self.save_fails: dict[str, Any] | None = None
        self.step = 0

    def note(self, fault: dict[str, Any]) -> None:
        with self.ledger.open("a") as file:
            file.write(json.dumps({**fault, "step": self.step, "run": self.run}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def around_step(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(state: Any, batch: Any, context: Any) -> Any:
            self.step = state.step
            due = [fault for fault in self.left if fault["step"] <= state.step and self._can(fault, state, context)]
            if due:
                self.left.remove(due[0])
                self._begin(due[0])
            if self.bad_left:
                self.bad_left -= 1
                batch = dataclasses.replace(batch, images=torch.full_like(batch.images, float("nan")))
            return real(state, batch, context)

        return step

    def _can(self, fault: dict[str, Any], state: Any, context: Any) -> bool:
        """Whether the fault can happen now, or must wait: for a process to kill, for batches that are taken whole."""
        if self.bad_left or self.save_fails:
            return False
        if fault["fault"] == "worker-killed":
            return context.ranks.world_size > 1
        is_alone = context.ranks.world_size == 1
        return fault["fault"] != "memory-full" or (is_alone and state.micro_batch_slices > 4)

    def _begin(self, fault: dict[str, Any]) -> None:
        kind = fault["fault"]
        if kind in ("disk-full", "killed-in-save"):
            self.save_fails = fault  # noted when it happens
            return
        self.note(fault)
        if kind in ("bad-batch", "bad-burst", "bad-weights"):
            self.bad_left = {"bad-batch": 1, "bad-burst": BURST, "bad-weights": LONG_BURST}[kind]
        elif kind == "memory-full":
            self.memory_is_full = True
        elif kind == "worker-killed":
            os.kill(STARTED[-1].pid, signal.SIGKILL)
        elif kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)

    def around_gradients(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def find(*arguments: Any, **named: Any) -> Any:
            if self.memory_is_full:
                self.memory_is_full = False
                raise torch.OutOfMemoryError("no room, says the soak")
            return real(*arguments, **named)

        return find

    def around_write(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def write(file: Any, data: bytes) -> None:
            fault = self.save_fails
            if fault is not None and file.tell() > 1_000_000:  # in the middle of the weights
                self.save_fails = None
                self.note(fault)
                if fault["fault"] == "killed-in-save":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(file, data)

        return write


def main() -> int:
    """Train one run."""
    run, fold, epochs, faults_path, ledger, run_number, seconds = sys.argv[1:]
    faults = Faults(Path(faults_path), Path(ledger), run=int(run_number))
    trainer.SECONDS_BETWEEN_SAVES = float(seconds)
    trainer.train_step = faults.around_step(trainer.train_step)
    step_module.accumulate_gradients = faults.around_gradients(step_module.accumulate_gradients)
    real_start = local_ranks._start
    local_ranks._start = lambda *arguments: STARTED.append(real_start(*arguments)) or STARTED[-1]
    checkpoints._write_all = faults.around_write(checkpoints._write_all)
    return train_main([run, "--fold", fold, "--epochs", epochs, "--device", "cpu"])


if __name__ == "__main__":
    sys.exit(main())
