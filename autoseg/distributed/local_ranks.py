"""Starts one rank per core of this machine, for training on a CPU.

Owns: `start_local_ranks`: the processes, their environment, and their end.
Does not own: what the ranks exchange (`ranks.py`), how many pay off (`pipelines/train.py`).

This process becomes rank 0. The others run the same command with the variables that torchrun would set, and one thread
each: a step of a small network consists of thousands of small operations, which gain little from several threads.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

from autoseg.distributed.ranks import TorchGroup, ready_key
from autoseg.errors import TrainingError, UsageError

HOST = "127.0.0.1"
ARRIVAL_TIMEOUT = timedelta(minutes=2)
# Every rank searches modules in the same places, in the same order, as this process: the path of an installed package
# in PYTHONPATH would come before the standard library, which some package there may hide.
RUN_MODULE = """import sys
sys.path[:] = sys.argv.pop(1).split("\\n")
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)"""


@contextmanager
def start_local_ranks(arguments: Sequence[str], *, world_size: int) -> Iterator[TorchGroup | None]:
    """Start ranks 1 .. `world_size` - 1, connect to them, and end them afterwards.

    Args:
        arguments: A module and its arguments, as after `python -m`, which all ranks run.
        world_size: The number of ranks including this one; with 1 nothing is started.

    Yields:
        The process group of the ranks; None for a process that is alone.

    Raises:
        UsageError: The processes cannot be started.
        TrainingError: One ended before the training began.
    """
    if world_size == 1:
        yield None
        return
    import torch
    from torch import distributed

    store = distributed.TCPStore(HOST, 0, world_size, is_master=True, wait_for_workers=False, timeout=ARRIVAL_TIMEOUT)
    variables = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    variables |= {"MASTER_ADDR": HOST, "MASTER_PORT": str(store.port), "OMP_NUM_THREADS": "1"}
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(_environment({**variables, "RANK": "0", "LOCAL_RANK": "0"}))
        stack.callback(torch.set_num_threads, threads)
        processes = []
        for rank in range(1, world_size):
            process = _start(arguments, variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        _wait_until_ready(processes, store)
        torch.set_num_threads(1)
        group = TorchGroup(0, world_size, store=store)
        stack.callback(group.close)
        yield group


def _start(arguments: Sequence[str], variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            [sys.executable, "-c", RUN_MODULE, "\n".join(sys.path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **variables, "AUTOSEG_LOCAL_RANK": "1"},
            start_new_session=True,  # Ctrl-C is for rank 0, which then ends the others
        )
    except OSError as error:
        raise UsageError(
            f"a training process cannot be started ({error.strerror}). Free memory or processes, or set "
            "OMP_NUM_THREADS=1 to train in one process."
        ) from error


def _wait_until_ready(processes: Sequence["subprocess.Popen[bytes]"], store: Any) -> None:
    """Wait until every rank has reached the store, since torch would wait forever for a rank that has ended.

    Raises:
        TrainingError: A rank has ended, or does not reach the store in time.
    """
    keys = [ready_key(rank) for rank in range(1, 1 + len(processes))]
    start = time.monotonic()
    while not store.check(keys):
        ended = [process.returncode for process in processes if process.poll() is not None]
        if ended or time.monotonic() - start > ARRIVAL_TIMEOUT.total_seconds():
            reason = f"ended with exit code {ended[0]}" if ended else "did not answer"
            raise TrainingError(
                f"a training process {reason} before the training began. Look for its own message, or set "
                "OMP_NUM_THREADS=1 to train in one process."
            )
        time.sleep(0.05)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block; `num_local_ranks` reads them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
