"""The other end of `core_processes.py`: `python -m autoseg.training.core_worker`, started by training itself.

Owns: the loop that answers each "go" with the sums of its share of the next batch and, once it is told those of the
whole batch, with the losses, its gradients in shared memory.
"""

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import load_file

from autoseg.config.plans import parse_plans
from autoseg.network.build import build_network
from autoseg.preprocessing.store import CaseStore
from autoseg.system.resources import end_with_parent
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.gradients import find_gradients, seed_dropout
from autoseg.training.micro_batches import Room
from autoseg.training.shared_files import map_file, place_in_file


def answer(source: TextIO, target: TextIO) -> None:
    """Read the task from the first line, then do one step for each further line, until there is none."""
    task = json.loads(source.readline())
    plans = parse_plans(task["plans"], source="the training process's task")
    torch.set_num_threads(1)
    network = build_network(plans, offline=True).train()  # what the first process fetched is in the cache
    network.load_state_dict(load_file(task["fixed"]), strict=False)
    parameters = place_in_file(network, Path(task["weights"]), is_new=False)
    places = map_file(Path(task["gradients"]), like=parameters)
    store = CaseStore(Path(task["store"]), data_hash=plans.data.hash())
    sampler = SliceSampler(
        store, task["cases"], plans=plans, cache_bytes=task["cache_bytes"], slices_per_step=task["slices_per_step"]
    )
    batches = sampler.batches(first_step=task["first_step"], part=slice(*task["part"]))

    def add_up(own: torch.Tensor) -> torch.Tensor:
        _say(own.tolist(), target)
        return torch.tensor(json.loads(source.readline()), dtype=own.dtype)

    for step, _go in enumerate(iter(source.readline, ""), start=task["first_step"]):
        seed_dropout(plans.training.seed, step=step, first_slice=task["part"][0])
        part = find_gradients(
            network,
            parameters,
            next(batches),
            plan=plans.training,
            room=Room(task["slices_at_once"]),
            add_up=add_up,
        )
        torch._foreach_copy_(places, list(part.gradients))
        _say(part.losses, target)


def _say(content: Any, target: TextIO) -> None:
    target.write(json.dumps(content) + "\n")
    target.flush()


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    answer(sys.stdin, sys.stdout)
