"""Ranks as torchrun would start them, without torchrun, whose start takes seconds: the first one keeps the store.

Owns: `train_in_ranks`.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RUNNER = Path(__file__).with_name("rank_runner.py")


@dataclass(frozen=True)
class Ended:
    """How a rank ended.

    Attributes:
        code: Its exit code.
        out: What it printed.
        err: What it logged.
        seconds: Until then, from the start of all.
    """

    code: int
    out: str
    err: str
    seconds: float


def train_in_ranks(
    run: Path, *options: object, size: int = 2, kills: Mapping[int, int] | None = None, timeout: float = 120.0
) -> list[Ended]:
    """Run `autoseg_train` in so many processes on the CPU, a core each.

    Args:
        run: The run folder.
        options: Of the command.
        size: Number of ranks.
        kills: The step at which a rank kills itself, by rank.
        timeout: Seconds that all may take.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "PYTHONPATH": str(RUNNER.parents[2]), "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    start = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, str(RUNNER), str((kills or {}).get(rank, "none")), str(run), *map(str, options)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        return [_end(process, start, timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()


def _end(process: "subprocess.Popen[str]", start: float, timeout: float) -> Ended:
    out, err = process.communicate(timeout=timeout)
    return Ended(process.returncode, out, err, time.monotonic() - start)
