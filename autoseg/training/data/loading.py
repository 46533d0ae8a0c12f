"""Batches made ahead of a GPU, so that it does not wait for data.

Owns: `batches_ahead`, how many processes make batches, and what follows when one of them dies.
Does not own: what a batch holds (`sampler.py`), the other end and the memory between (`loading_worker.py`), the
processes that share the training itself on a CPU (`core_processes.py`).

Why processes and not threads: batchgenerators draws from generators of which a process has one, so that one thread
alone can make batches; and the thread that launches a GPU's kernels, thousands a step, should not wait for Python's
lock. On a CPU the cores are busy with the network, and a thread makes one batch ahead.

A batch depends on seed and step alone, and each of N workers makes every N-th, so their number changes nothing. A
worker is forked: it sees the cases that are kept in memory and copies none. It has room for two batches, so what is
made ahead is bounded. One that dies is replaced; what fails in one is done here, where an error ends the training.
"""

import itertools
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch

from autoseg.distributed.ranks import num_local_ranks
from autoseg.system.resources import find_free_bytes, find_num_cores
from autoseg.system.signals import defer_signals
from autoseg.training.data.loading_worker import BatchMemory, PackedBatch, make_batches, unpack
from autoseg.training.data.pinned_memory import pinned
from autoseg.training.data.sampler import Batch, SliceSampler

log = logging.getLogger("autoseg")

MOST_WORKERS = 16
BATCHES_A_WORKER = 2  # the one that is being made, and the one before it, which may be in use
SHARE_OF_FREE_MEMORY = 0.2  # for the batches of all workers
MOST_REPLACED = 5  # workers of one sitting; more deaths are no accident
LONGEST_SECONDS = 300.0  # that a batch may take; a worker that is stuck counts as dead


@contextmanager
def batches_ahead(
    sampler: SliceSampler,
    *,
    first_step: int,
    device: torch.device,
    part: slice | None = None,
    num_workers: int | None = None,
) -> Iterator[Iterator[Batch]]:
    """Give batches, or a part of each, without end, and end what makes them.

    Args:
        sampler: Makes them.
        first_step: Of the first batch.
        device: That trains. Batches come in this process's memory; where the device is a GPU, it can fetch them from
            there without a copy. A batch of a worker is valid until the next is asked for.
        part: Of the slices of each batch.
        num_workers: Processes that make batches; with 0 a thread makes one ahead. None: what the machine can do.
    """
    if num_workers is None:
        num_workers = choose_num_workers(sampler, device=device, part=part)
    if num_workers == 0:
        yield sampler.batches(first_step=first_step, part=part)
        return
    log.info("%d %s batches ahead", num_workers, "process makes" if num_workers == 1 else "processes make")
    workers = [
        _Worker(sampler, [BatchMemory(*sampler.largest_batch(part)) for _ in range(BATCHES_A_WORKER)], part=part)
        for _ in range(num_workers)
    ]
    try:
        for number, worker in enumerate(workers):
            worker.start(first_step + number, stride=num_workers)
        with pinned([memory for worker in workers for memory in worker.memories], device=device):
            yield _take_turns(workers, sampler, first_step=first_step, part=part, device=device)
    finally:
        for worker in workers:
            worker.stop()


def choose_num_workers(sampler: SliceSampler, *, device: torch.device, part: slice | None = None) -> int:
    """Return how many processes make batches: the cores that a GPU's process leaves, as far as memory goes.

    None on a CPU, where the cores have the network to work on, and where processes cannot be forked.
    """
    if device.type != "cuda" or sys.platform != "linux":
        return 0
    bytes_a_worker = BATCHES_A_WORKER * BatchMemory.find_bytes(*sampler.largest_batch(part))
    with_memory = int(SHARE_OF_FREE_MEMORY * find_free_bytes() / num_local_ranks() // bytes_a_worker)
    return max(0, min(find_num_cores() // num_local_ranks() - 1, MOST_WORKERS, with_memory))


def _take_turns(
    workers: "Sequence[_Worker]", sampler: SliceSampler, *, first_step: int, part: slice | None, device: torch.device
) -> Iterator[Batch]:
    """Take a batch of each worker in turn; where one has none to give, make it here."""
    left = MOST_REPLACED
    for step, worker in zip(itertools.count(first_step), itertools.cycle(workers), strict=False):
        packed = worker.receive()
        while packed is None and worker.is_needed:
            _tell_death(worker.last_words, is_replaced=left > 0)
            worker.start(step, stride=len(workers), is_possible=left > 0)
            left -= 1
            packed = worker.receive()
        if packed is None or packed.fault:
            if packed is not None:
                log.warning("step %d: a process could not make the batch (%s); it is made here.", step, packed.fault)
            yield sampler.make_batch(step, part=part)
        else:
            yield unpack(packed, worker.memory)
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()  # the GPU may still be fetching it
        worker.give_back()


def _tell_death(last_words: str, *, is_replaced: bool) -> None:
    if is_replaced:
        log.warning("a process that makes batches %s. Another takes its place.", last_words)
    else:
        log.warning(
            "a process that makes batches %s. Its batches are made by the training itself from now on, which is "
            "slower. See how much memory is free.",
            last_words,
        )


class _Worker:
    """One process, its pipe, and the memory that it makes batches in."""

    def __init__(self, sampler: SliceSampler, memories: list[BatchMemory], *, part: slice | None) -> None:
        self.memories = memories
        self.is_needed = True
        self.last_words = ""
        self._sampler, self._part = sampler, part
        self._process: Any = None
        self._pipe: Connection | None = None
        self._num_received = 0

    def start(self, first_step: int, *, stride: int, is_possible: bool = True) -> None:
        """Start the process at a step, in place of one that is gone; or give up."""
        self.is_needed = is_possible
        if not is_possible:
            return
        context: Any = multiprocessing.get_context("fork")
        with (
            defer_signals()
        ):  # a signal between the start and what is kept of it would leave a process that nobody ends
            here, there = context.Pipe()
            process = context.Process(
                target=make_batches,
                args=(self._sampler, there, self.memories),
                kwargs={"first_step": first_step, "stride": stride, "part": self._part, "parent": os.getpid()},
                daemon=True,
            )
            try:
                process.start()
            except OSError as error:  # no memory, or no more processes allowed
                log.warning("a process that makes batches could not be started (%s); training does its part.", error)
                self.is_needed = False
                here.close()
            else:
                self._process, self._pipe, self._num_received = process, here, 0
            there.close()

    @property
    def memory(self) -> BatchMemory:
        """That of the batch received last."""
        return self.memories[(self._num_received - 1) % len(self.memories)]

    def receive(self) -> PackedBatch | None:
        """Wait for the next batch; None where there is no process, or no longer."""
        if self._pipe is None:
            return None
        try:
            if not self._pipe.poll(LONGEST_SECONDS):
                raise TimeoutError
            packed: PackedBatch = self._pipe.recv()
        except (EOFError, OSError) as error:  # TimeoutError is one
            self.last_words = self._end(is_stuck=isinstance(error, TimeoutError))
            return None
        self._num_received += 1
        return packed

    def give_back(self) -> None:
        """Let the worker make another batch in the place of the one received last."""
        if self._pipe is not None:
            try:
                self._pipe.send_bytes(b"free")
            except OSError:
                log.debug("the process is gone; receive() says so")

    def stop(self) -> None:
        """End the process, if there is one, for good."""
        self.is_needed = False
        with defer_signals():
            if self._process is not None:
                self._end(is_stuck=True)

    def _end(self, *, is_stuck: bool) -> str:
        """End the process, and say how it ended."""
        process, pipe = self._process, self._pipe
        self._process, self._pipe = None, None
        if pipe is not None:
            pipe.close()
        if is_stuck:
            process.kill()
        process.join()
        code = process.exitcode
        if is_stuck:
            return f"has not answered for {LONGEST_SECONDS:g} seconds"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = " (often this means that the memory was full)" if name == "SIGKILL" else ""
            return f"was ended by {name}{hint}"
        return f"ended by itself (exit code {code})"
