"""More than one core: processes that find the gradients of their share of each batch.

Owns: `GradientProcesses` and the protocol.
Does not own: the other end (`core_worker.py`), a training step (`step.py`), the files (`shared_files.py`).

Why processes: a step of the nano network is some 5,000 small operations. Sharing each of them out, as torch's own
threads do, gains little on two cores and loses much as soon as another thread wants a core; threads that each take
slices of their own wait for one another at Python's lock.

The weights lie in a memory-mapped file that all processes see, so nothing is sent but "go". Each process answers with
the sums of its share, is told the sums of the whole batch, writes its gradients into a file of its own, and says so. So
losses and gradients are those of the whole batch, whatever the number of cores. A process that dies is reported, and
from then on its share of each batch is done here. Where the temporary folder has no room for these files, no process is
started.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from autoseg.preprocessing.store import CaseStore
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.gradients import PartGradients, measure, seed_dropout, turn_back
from autoseg.training.loss.losses import Sums, join_sums
from autoseg.training.shared_files import fixed_tensors, map_file, place_in_file, reserve, trained_parameters
from autoseg.training.state import TrainState
from autoseg.training.step_share import StepShare, add_in_pairs, cut_slices

log = logging.getLogger("autoseg")

MIN_SLICES = 2  # one costs a process almost as much
GO = "go\n"


class GradientProcesses:
    """The processes beside this one; with none of them every call does nothing."""

    def __init__(self, part: slice, *, workers: "Sequence[_Worker]", sampler: SliceSampler) -> None:
        """Take this process's own part of a batch, and started workers; `sampler` stands in for one that dies."""
        self.part = part
        self._workers = list(workers)
        self._sampler = sampler
        self._sums: dict[int, Tensor] = {}  # of this step, by the number of the worker
        self._measured: dict[int, Sums] = {}  # the shares that are done here
        self._total = torch.zeros(0)

    def start_step(self) -> None:
        """Let every process begin with its share of the next batch."""
        self._sums, self._measured = {}, {}
        for worker in self._workers:
            worker.send(GO)

    def add_sums(self, own: Tensor, state: TrainState) -> Tensor:
        """Wait for the sums of every share of the batch of `state.step`, and add them to those of this process's share.

        Called again in the same step, as after a full memory, it waits for nothing that is there.
        """
        for number, worker in enumerate(self._workers):
            if number not in self._sums:
                values = worker.receive()
                found = self._measure(number, state) if values is None else torch.tensor(values, dtype=own.dtype)
                self._sums[number] = found
        return add_in_pairs([own, *self._sums.values()], torch.add)

    def tell(self, total: Tensor) -> None:
        """Tell every process the sums of the whole batch."""
        self._total = total
        line = json.dumps(total.tolist()) + "\n"
        for worker in self._workers:
            worker.send(line)

    def finish_step(self, state: TrainState) -> list[PartGradients]:
        """Wait for the gradients of every share, once the sums are told; find those of dead processes here."""
        return [self._finish(number, state) for number in range(len(self._workers))]

    def _finish(self, number: int, state: TrainState) -> PartGradients:
        worker = self._workers[number]
        losses = None if number in self._measured else worker.receive()
        if losses is not None:
            return PartGradients(losses, worker.gradients)
        if number not in self._measured:
            self._measure(number, state)
        plan = self._sampler.plans.training
        return turn_back(self._measured.pop(number), state.parameters, total=self._total, plan=plan)

    def _measure(self, number: int, state: TrainState) -> Tensor:
        """Do the forward half of a dead process's share."""
        plan, part = self._sampler.plans.training, self._workers[number].part
        batch = self._sampler.make_batch(state.step, part=part)
        seed_dropout(plan.seed, step=state.step, first_slice=part.start)
        self._measured[number] = measure(state.network, batch, plan=plan, slices_at_once=state.room.slices)
        return join_sums(self._measured[number]).detach()


@contextmanager
def start_processes(
    state: TrainState, sampler: SliceSampler, *, store: CaseStore, share: StepShare, num_processes: int
) -> Iterator[GradientProcesses]:
    """Start processes beside this one; the part of each batch that is left for this one is theirs to tell.

    Args:
        state: Its network is on the CPU, in training mode; the weights move into shared memory.
        sampler: Of the cases to train on.
        store: Where the cases are.
        share: What this process, and those that it starts, have of each batch.
        num_processes: This one included.
    """
    plans, network = sampler.plans, state.network
    parts = cut_for_processes(share, num_processes, memory_clip_slices=plans.memory_clip_slices)
    if len(parts) == 1:
        yield GradientProcesses(share.part, workers=(), sampler=sampler)
        return
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="autoseg-") as name:
        folder = Path(name)
        try:
            for file in ("weights", *(_gradients_name(part) for part in parts[1:])):
                reserve(folder / file, like=trained_parameters(network))
            save_file(fixed_tensors(network), folder / "fixed")
        except (OSError, SafetensorError) as error:
            log.warning(
                "no room in %s for what the cores share (%s); training without processes, which is slower. Make room "
                "there, or set TMPDIR to another folder.",
                folder.parent,
                error,
            )
            yield GradientProcesses(share.part, workers=(), sampler=sampler)
            return
        place_in_file(network, folder / "weights", is_new=True)
        torch.set_num_threads(1)
        task: dict[str, Any] = {
            "plans": plans.model_dump(mode="json"),
            "store": str(store.folder.resolve()),
            "cases": list(sampler.case_ids),
            "first_step": state.step,
            "cache_bytes": sampler.cache_bytes,
            "slices_at_once": share.at_once,
            "slices_per_step": sampler.draws.slices_per_step,
            "weights": str(folder / "weights"),
            "fixed": str(folder / "fixed"),
        }
        workers = [_Worker(part, task, folder=folder, like=state.parameters) for part in parts[1:]]
        try:
            yield GradientProcesses(parts[0], workers=workers, sampler=sampler)
        finally:
            for worker in workers:
                worker.stop()
            torch.set_num_threads(threads)


def cut_for_processes(share: StepShare, num_processes: int, *, memory_clip_slices: int) -> list[slice]:
    """Cut a share evenly, one part a process, none of fewer than two slices unless the share is smaller."""
    most = max(1, min(num_processes, share.num_slices // MIN_SLICES))
    return cut_slices(share.part, most, memory_clip_slices=memory_clip_slices)


def _gradients_name(part: slice) -> str:
    return f"gradients_{part.start}"


def _start(environment: dict[str, str]) -> "subprocess.Popen[str] | None":
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "autoseg.training.core_worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )
    except OSError as error:  # no memory, or no more processes allowed
        log.warning("a training process could not be started (%s); its slices are done by the others.", error)
        return None


class _Worker:
    """One process and its part of each batch."""

    def __init__(self, part: slice, task: dict[str, Any], *, folder: Path, like: Sequence[Parameter]) -> None:
        self.part = part
        path = folder / _gradients_name(part)
        self.gradients = map_file(path, like=like)
        package_root = str(Path(__file__).parents[2])
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        self._process = _start(environment)
        self.send(json.dumps({**task, "part": [part.start, part.stop], "gradients": str(path)}) + "\n")

    def send(self, text: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except BrokenPipeError:
            log.debug("the process is gone; receive() says so")

    def receive(self) -> Any:
        """Return what the process says next; None where it is gone."""
        if self._process is None or self._process.stdout is None:
            return None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            code = self._process.wait()
            log.warning("a training process ended by itself (%d); its slices are done by the others from now on.", code)
            self._process = None
            return None
        return json.loads(line)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
