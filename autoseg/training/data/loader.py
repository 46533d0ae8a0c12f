"""Makes batches ahead of the training with torch's DataLoader.

Owns: `make_loader`, and the number of worker processes.
Does not own: what a batch contains (`sampler.py`).

A batch depends on the seed and its step alone, so neither the number of workers nor an interruption changes the
training. On a CPU there are no workers: the cores are busy with the network.
"""

import itertools
import signal
import sys
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from autoseg.distributed.ranks import num_local_ranks
from autoseg.errors import TrainingError
from autoseg.system.out_of_memory import is_out_of_memory
from autoseg.system.resources import find_num_cores
from autoseg.training.data.batch import Batch
from autoseg.training.data.sampler import SliceSampler

MAX_WORKERS = 16
BATCHES_PER_WORKER = 2


class StepDataset(Dataset[Batch]):
    """Maps a step's number to this rank's part of its batch."""

    def __init__(self, sampler: SliceSampler, part: slice) -> None:
        """Take the sampler, and the numbers of this rank's slices among those of a step."""
        self.sampler, self.part = sampler, part

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step."""
        return self.sampler.make_batch(step, part=self.part)


def make_loader(
    sampler: SliceSampler, *, first_step: int, part: slice, device: torch.device, num_workers: int | None = None
) -> Iterator[Batch]:
    """Yield batches without end, in the order of the steps from `first_step`.

    Args:
        sampler: Makes the batches.
        first_step: The step of the first batch.
        part: The numbers of this rank's slices among those of a step.
        device: The device that trains; for a GPU, workers make batches ahead in pinned memory.
        num_workers: The number of worker processes; None: as many as the machine has cores to spare.

    Raises:
        TrainingError: A worker process was killed.
    """
    workers = choose_num_workers(device) if num_workers is None else num_workers
    loader = DataLoader(
        StepDataset(sampler, part),
        batch_size=None,
        sampler=itertools.count(first_step),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        prefetch_factor=BATCHES_PER_WORKER if workers else None,
        multiprocessing_context="fork" if workers else None,  # the cases that are kept in memory are not copied
        worker_init_fn=_leave_signals_to_the_parent if workers else None,
    )
    try:
        yield from loader
    except RuntimeError as error:  # torch has no class of its own for a worker that died
        if "DataLoader worker" not in str(error) or is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"a process that makes batches ended by itself ({reason}), perhaps because the memory or /dev/shm is full. "
            "Free memory; the same command continues the run."
        ) from error


def choose_num_workers(device: torch.device) -> int:
    """Return how many worker processes make batches: the cores that the process of a GPU leaves free."""
    if device.type != "cuda" or sys.platform != "linux":
        return 0
    return max(0, min(find_num_cores() // num_local_ranks() - 1, MAX_WORKERS))


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ignore the signals that a terminal sends to all processes; the parent ends its workers."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
