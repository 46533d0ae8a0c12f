"""The other end of `loading.py`: the loop of a process that makes batches, and the memory that they are handed over in.

Owns: `BatchMemory`, `make_batches`, and a batch packed for a pipe and unpacked again, side by side.

Images and labels lie in anonymous memory that both processes see; it has no name that could be left over, and no limit
such as that of /dev/shm in a container. The rest of a batch is small and goes through the pipe.
"""

import itertools
import mmap
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch

from autoseg.network.point_prompts import Clicks
from autoseg.system.resources import end_with_parent
from autoseg.system.signals import SIGNALS
from autoseg.training.data.augmentation_draws import Changes
from autoseg.training.data.sampler import Batch, SliceSampler
from autoseg.training.loss.targets import LabelSets

LABEL_BYTES, IMAGE_BYTES = 8, 4  # int64 and float32


class BatchMemory:
    """Room for the images and labels of one batch, shared with the processes that are forked after it was made."""

    def __init__(self, num_image_values: int, num_label_values: int) -> None:
        """Reserve it; the system gives the memory when it is written to."""
        memory = mmap.mmap(-1, self.find_bytes(num_image_values, num_label_values))
        self.labels = np.frombuffer(memory, np.int64, num_label_values)
        self.images = np.frombuffer(memory, np.float32, num_image_values, offset=self.labels.nbytes)
        self.address, self.num_bytes = int(self.labels.ctypes.data), len(memory)

    @staticmethod
    def find_bytes(num_image_values: int, num_label_values: int) -> int:
        """Return what it takes."""
        return IMAGE_BYTES * num_image_values + LABEL_BYTES * num_label_values


@dataclass(frozen=True)
class PackedBatch:
    """What goes through the pipe; fields as in `Batch`.

    Attributes:
        images_shape: Of what lies in the memory.
        labels_shape: Likewise.
        arrays: The small tensors, None where the batch has none.
        case_ids: As there.
        changes: As there.
        fault: Why there is no batch; empty where there is one.
    """

    images_shape: tuple[int, ...] = ()
    labels_shape: tuple[int, ...] = ()
    arrays: tuple[np.ndarray | None, ...] = ()
    case_ids: tuple[str, ...] = ()
    changes: Changes | None = None
    fault: str = ""


def make_batches(
    sampler: SliceSampler,
    pipe: Connection,
    memories: Sequence[BatchMemory],
    *,
    first_step: int,
    stride: int,
    part: slice | None,
    parent: int,
) -> None:
    """Make every so-many-th batch from the first step on, until the other end closes; runs in the worker.

    Args:
        sampler: Makes them.
        pipe: To the parent.
        memories: The batches lie in them by turns; the parent says when one is free again.
        first_step: Of the first batch.
        stride: From one step to the next.
        part: Of the slices of each batch.
        parent: Its process, with which this one ends.
    """
    for number in SIGNALS:  # those of the terminal reach the parent as well, which ends its workers
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    end_with_parent(parent)
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    try:
        for number, step in enumerate(itertools.count(first_step, stride)):
            if number >= len(memories):
                pipe.recv_bytes()
            pipe.send(_make(sampler, step, part, memories[number % len(memories)]))
    except (EOFError, OSError):
        return  # the parent is done, or gone


def _make(sampler: SliceSampler, step: int, part: slice | None, memory: BatchMemory) -> PackedBatch:
    try:
        return _pack(sampler.make_batch(step, part=part, image_memory=memory.images), memory)
    except Exception as error:  # any: the parent makes this batch, and meets the error where it can end the training
        return PackedBatch(fault=f"{type(error).__name__}: {error!s:.200}")


def _pack(batch: Batch, memory: BatchMemory) -> PackedBatch:
    """Pack a batch whose images lie in the memory already."""
    memory.labels[: batch.labels.numel()] = batch.labels.numpy().ravel()
    clicks, sets = batch.clicks, batch.sets
    small = (
        batch.organs,
        batch.positions,
        *((clicks.places, clicks.kinds) if clicks is not None else (None, None)),
        *((sets.classes, sets.regions) if sets is not None else (None, None)),
    )
    return PackedBatch(
        images_shape=tuple(batch.images.shape),
        labels_shape=tuple(batch.labels.shape),
        arrays=tuple(None if tensor is None else tensor.numpy() for tensor in small),
        case_ids=batch.case_ids,
        changes=batch.changes,
    )


def unpack(packed: PackedBatch, memory: BatchMemory) -> Batch:
    """Return the batch, whose images and labels stay where they are."""
    organs, positions, places, kinds, classes, regions = (
        None if array is None else torch.from_numpy(array) for array in packed.arrays
    )
    assert organs is not None
    return Batch(
        images=_view(memory.images, packed.images_shape),
        labels=_view(memory.labels, packed.labels_shape),
        organs=organs,
        case_ids=packed.case_ids,
        positions=positions,
        clicks=None if places is None or kinds is None else Clicks(places, kinds),
        sets=None if classes is None or regions is None else LabelSets(classes, regions),
        changes=packed.changes,
    )


def _view(values: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(values[: int(np.prod(shape))].reshape(shape))
