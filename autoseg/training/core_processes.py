"""More than one core: processes that find the gradients of their share of each batch.

Owns: `GradientProcesses`, the shared memory that weights and gradients lie in, and the protocol.
Does not own: the other end (`core_worker.py`), a training step (`trainer.py`).

Why processes: a step of the nano network is some 5,000 small operations. Sharing each of them out, as torch's own
threads do, gains little on two cores and loses much as soon as another thread wants a core; threads that each take
slices of their own wait for one another at Python's lock.

The weights lie in a memory-mapped file that all processes see, so nothing is sent but "go"; each process writes its
gradients into a file of its own and answers with its losses. A process that dies is reported, and from then on its
share of each batch is done here. Where the temporary folder has no room for these files, no process is started.
"""

import itertools
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

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from autoseg.network.model import AutosegNetwork
from autoseg.plans import Plans
from autoseg.preprocessing.store import CaseStore
from autoseg.training.gradients import PartGradients, find_gradients_in_room, seed_dropout
from autoseg.training.pieces import Room
from autoseg.training.sampling import SliceSampler

log = logging.getLogger("autoseg")

MIN_SLICES = 4  # fewer cost a process almost as much, and Dice, a sum over a part's slices, grows noisy
GO = "go\n"


class GradientProcesses:
    """The processes beside this one; with none of them every call does nothing."""

    def __init__(self, *, workers: "Sequence[_Worker]", sampler: SliceSampler, plans: Plans) -> None:
        """Take started workers; `sampler` stands in for one that dies."""
        self._workers = list(workers)
        self._sampler = sampler
        self._plans = plans

    def start_step(self) -> None:
        """Let every process begin with its share of the next batch."""
        for worker in self._workers:
            worker.send_go()

    def finish_step(
        self, step: int, network: AutosegNetwork, parameters: Sequence[Parameter], *, room: Room | None = None
    ) -> list[PartGradients]:
        """Wait for every share of the batch of `step`; do those of dead processes here, in the room that there is."""
        results = []
        for worker in self._workers:
            result = worker.receive(parameters)
            if result is None:
                plan = self._plans.training
                batch = self._sampler.make_batch(step, part=worker.part)
                seed_dropout(plan.seed, step=step, first_slice=worker.part.start)
                result = find_gradients_in_room(network, parameters, batch, plan=plan, room=room or Room())
            results.append(result)
        return results


@contextmanager
def start_processes(
    network: AutosegNetwork, sampler: SliceSampler, *, store: CaseStore, first_step: int, num_processes: int
) -> Iterator[tuple[slice, GradientProcesses]]:
    """Start processes beside this one, and give the part of each batch that is left for this one.

    Args:
        network: On the CPU, in training mode; its weights move into shared memory.
        sampler: Of the cases to train on.
        store: Where the cases are.
        first_step: The step that comes next.
        num_processes: This one included.
    """
    plans = sampler.plans
    parts = cut_batch(plans.slices_per_step, num_processes, clip_slices=plans.clip_slices)
    whole = slice(0, plans.slices_per_step)
    if len(parts) == 1:
        yield whole, GradientProcesses(workers=(), sampler=sampler, plans=plans)
        return
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="autoseg-") as name:
        folder = Path(name)
        num_values = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        try:
            for file in ("weights", *(_gradients_name(part) for part in parts[1:])):
                _reserve(folder / file, 4 * num_values)
            save_file(fixed_tensors(network), folder / "fixed")
        except (OSError, SafetensorError) as error:
            log.warning(
                "no room in %s for what the cores share (%s); training without processes, which is slower. Make room "
                "there, or set TMPDIR to another folder.",
                folder.parent,
                error,
            )
            yield whole, GradientProcesses(workers=(), sampler=sampler, plans=plans)
            return
        place_in_file(network, folder / "weights", is_new=True)
        torch.set_num_threads(1)
        task: dict[str, Any] = {
            "plans": plans.model_dump(mode="json"),
            "store": str(store.folder.resolve()),
            "cases": list(sampler.case_ids),
            "first_step": first_step,
            "cache_bytes": sampler.cache_bytes,
            "weights": str(folder / "weights"),
            "fixed": str(folder / "fixed"),
        }
        workers = [_Worker(part, task, folder=folder, num_values=num_values) for part in parts[1:]]
        try:
            yield parts[0], GradientProcesses(workers=workers, sampler=sampler, plans=plans)
        finally:
            for worker in workers:
                worker.stop()
            torch.set_num_threads(threads)


def cut_batch(batch_slices: int, num_processes: int, *, clip_slices: int = 1) -> list[slice]:
    """Cut a batch evenly, one part a process, none of fewer than four slices unless the batch is smaller.

    Args:
        batch_slices: A multiple of `clip_slices`.
        num_processes: The most parts.
        clip_slices: What must stay together.
    """
    num_clips = batch_slices // clip_slices
    count = max(1, min(num_processes, batch_slices // MIN_SLICES, num_clips))
    bounds = [clip_slices * round(i * num_clips / count) for i in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def place_in_file(network: AutosegNetwork, path: Path, *, is_new: bool) -> list[Parameter]:
    """Move the trained weights into a file of their size, memory-mapped, or take those that are there.

    Returns:
        The weights, in the file's order.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    sizes = [parameter.numel() for parameter in parameters]
    values = torch.from_numpy(np.memmap(path, dtype=np.float32, mode="r+", shape=(sum(sizes),)))
    for parameter, piece in zip(parameters, cut_like(values, parameters), strict=True):
        if is_new:
            piece.copy_(parameter.data)
        parameter.data = piece
    return parameters


def _gradients_name(part: slice) -> str:
    return f"gradients_{part.start}"


def _reserve(path: Path, num_bytes: int) -> None:
    """Make a file of zeros that has its place on the disk: a mapped file without one ends the process when it is full.

    Raises:
        OSError: There is no room.
    """
    with path.open("wb") as file:
        file.truncate(num_bytes)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)


def fixed_tensors(network: AutosegNetwork) -> dict[str, Tensor]:
    """Return what the network holds beside its trained weights, such as its positional code."""
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    # Copies: a tensor that stands under two names, such as the code that clicks share, cannot be written twice.
    return {name: value.clone() for name, value in network.state_dict().items() if name not in trained}


def cut_like(values: Tensor, parameters: Sequence[Parameter]) -> list[Tensor]:
    """Cut one long vector into views of the parameters' shapes."""
    pieces = values.split([parameter.numel() for parameter in parameters])
    return [piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True)]


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

    def __init__(self, part: slice, task: dict[str, Any], *, folder: Path, num_values: int) -> None:
        self.part = part
        path = folder / _gradients_name(part)
        self._values = torch.from_numpy(np.memmap(path, dtype=np.float32, mode="r+", shape=(num_values,)))
        package_root = str(Path(__file__).parents[2])
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        self._process = _start(environment)
        self._send(json.dumps({**task, "part": [part.start, part.stop], "gradients": str(path)}) + "\n")

    def send_go(self) -> None:
        self._send(GO)

    def receive(self, parameters: Sequence[Parameter]) -> PartGradients | None:
        if self._process is None or self._process.stdout is None:
            return None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            log.warning("a training process ended by itself (%d); its slices are done by the others from now on.", code)
            self._process = None
            return None
        gradients = cut_like(self._values, parameters)
        return PartGradients(json.loads(line), gradients, self.part.stop - self.part.start)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _send(self, text: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except BrokenPipeError:
            log.debug("the process is gone; receive() says so")
