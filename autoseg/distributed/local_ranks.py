"""Starts one rank per core of this machine, for training on a CPU.

Owns: `start_local_ranks`: the processes, their environment, and their end.
Does not own: what the ranks exchange (`ranks.py`), how many pay off (`pipelines/train.py`).

This process becomes rank 0. The others run the same command with the variables that torchrun would set, and one thread
each: a step of a small network consists of thousands of small operations, which gain little from several threads.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from autoseg.distributed.ranks import TorchGroup
from autoseg.errors import UsageError

HOST = "127.0.0.1"
ARRIVAL_TIMEOUT = timedelta(minutes=2)


@contextmanager
def start_local_ranks(arguments: Sequence[str], *, world_size: int) -> Iterator[TorchGroup | None]:
    """Start ranks 1 .. `world_size` - 1, connect to them, and end them afterwards.

    Args:
        arguments: A module and its arguments, as after `python -m`, which all ranks run.
        world_size: The number of ranks with this one; with 1 nothing is started.

    Yields:
        What connects the ranks; None for a process that is alone.

    Raises:
        UsageError: The processes cannot be started or connected.
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
        for rank in range(1, world_size):
            process = _start(arguments, variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            stack.callback(process.wait)
            stack.callback(process.kill)
        torch.set_num_threads(1)
        group = TorchGroup(0, world_size, store=store)
        stack.callback(group.close)
        yield group


def _start(arguments: Sequence[str], variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    package_root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    try:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **variables, "AUTOSEG_LOCAL_RANK": "1", "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for rank 0, which then ends the others
        )
    except OSError as error:
        raise UsageError(
            f"a training process cannot be started ({error.strerror}). Free memory or processes, or set "
            "OMP_NUM_THREADS=1 to train in one process."
        ) from error


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for as long as this lasts; what asks how many ranks share this machine reads them."""
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
