"""Holds everything that a training run would lose if it were killed: `TrainState`, packed and filled side by side.

Owns: the network, its moving average, the optimizers, the counters, and whether a saved state belongs to a plan.
Does not own: the file (`checkpointing/checkpoints.py`), what stays the same during a run (`context.py`).
"""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from autoseg.config.plans import Plans
from autoseg.errors import CheckpointError
from autoseg.hub.download import find_weights
from autoseg.network.build import build_network
from autoseg.network.weights.load_errors import explain_load_failure
from autoseg.network.weights.model_file import call_builder
from autoseg.network.weights.sam2_checkpoint import WeightsReport, load_sam2_weights
from autoseg.system.atomic_files import parse_json
from autoseg.system.torch_device import cuda_dtype
from autoseg.training.checkpointing.init_from_model import StartingModel
from autoseg.training.checkpointing.transfer_report import StartReport
from autoseg.training.optim.optimizers import build_optimizers

STATE_VERSION = 1
SAVED_NUMBERS = ("step", "seconds", "rate_factor", "best_dice", "slices_per_step")


@dataclass
class TrainState:
    """A run between two steps.

    Attributes:
        network: The network whose weights are trained.
        averaged: Their exponential moving average, which becomes the model.
        optimizers: AdamW, and Muon where the plan uses it.
        scaler: The loss scaling for float16; inactive otherwise.
        weights: The report on the checkpoint or model that the run began with, if this process read it.
        step: The number of completed steps.
        seconds: The time spent on them, over all sessions of the run.
        bad_steps: The number of most recent steps in a row whose loss was not finite.
        rate_factor: A factor of the learning rate; below 1 once the run was rolled back to an earlier state.
        best_dice: The best mean Dice on validation cases so far; below 0 before the first validation.
        slices_per_step: The slices of each step, over all ranks, as when the run began.
        micro_batch_slices: How many slices go through the network at once; fewer once the memory was full.
        saved_step: The step of the newest saved state; below 0 where there is none.
        is_whole: False while a step updates the weights: an error then leaves some updated and others not.
    """

    network: nn.Module
    averaged: nn.Module
    optimizers: tuple[torch.optim.Optimizer, ...]
    scaler: torch.amp.GradScaler
    weights: WeightsReport | StartReport | None = None
    step: int = 0
    seconds: float = 0.0
    bad_steps: int = 0
    rate_factor: float = 1.0
    best_dice: float = -1.0
    slices_per_step: int = 0
    micro_batch_slices: int = 1
    saved_step: int = -1
    is_whole: bool = True

    @cached_property
    def parameters(self) -> list[Parameter]:
        """The trained weights, in the network's order; listed once, since a network has hundreds of modules."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def is_finite(self) -> bool:
        """Return whether every weight is finite."""
        weights = [*self.network.parameters(), *self.averaged.parameters()]
        return all(bool(weight.isfinite().all()) for weight in weights)

    def is_sound(self) -> bool:
        """Return whether this state is worth saving: between two steps, the last one good, every weight finite."""
        return self.is_whole and self.bad_steps == 0 and self.is_finite()


def new_state(
    plans: Plans,
    *,
    device: torch.device,
    offline: bool = False,
    pretrained: Collection[str] | None = None,
    start: StartingModel | None = None,
    world_size: int = 1,
    build: Callable[[Plans], nn.Module] | None = None,
) -> TrainState:
    """Build the state of a new run, whose weights are drawn, or come from a checkpoint or a finished model.

    Args:
        plans: The plan of the run.
        device: The network's device.
        offline: Whether weights come from the hub's cache alone.
        pretrained: For a resumed run, the names of the weights that came from a checkpoint, which is not read again.
        start: The finished model to begin with, or None.
        world_size: The number of ranks that torchrun started.
        build: The user's function that builds the network from the plan; None: autoseg's own.

    Raises:
        CheckpointError: The checkpoint or text model cannot be read, or does not fit the plan.
    """
    torch.manual_seed(plans.training.seed)
    report: WeightsReport | StartReport | None = None
    if build is not None:
        network = call_builder(build, plans)
    else:
        network = build_network(plans, offline=offline)
        if start is not None:
            report = start.fill(network, plans)
        elif plans.network.weights is not None and pretrained is None:
            path = find_weights(plans.network.weights, sha256=plans.network.weights_sha256, offline=offline)
            report = load_sam2_weights(network, path)
    network = network.to(device)
    needs_scaler = device.type == "cuda" and cuda_dtype() == torch.float16
    return TrainState(
        network=network,
        averaged=copy.deepcopy(network).requires_grad_(False).eval(),
        optimizers=build_optimizers(
            network, plans=plans, pretrained=(report.parameters if report is not None else pretrained) or ()
        ),
        scaler=torch.amp.GradScaler(device.type, enabled=needs_scaler),
        weights=report,
        slices_per_step=plans.slices_per_step * plans.training.gradient_accumulation * world_size,
        micro_batch_slices=plans.slices_per_step,
    )


def pack_state(state: TrainState, plans: Plans) -> dict[str, Any]:
    """Return tensors and plain values only, so that they load without running code."""
    return {
        "version": STATE_VERSION,
        "plans": plans.model_dump_json(),
        "network": state.network.state_dict(),
        "averaged": state.averaged.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "scaler": state.scaler.state_dict(),
        **{name: getattr(state, name) for name in SAVED_NUMBERS},
    }


def fill_state(state: TrainState, plans: Plans, content: dict[str, Any], *, source: Path) -> None:
    """Fill a state, in place, with what `pack_state` returned; `source` names its file in messages.

    Raises:
        CheckpointError: It was written under another plan or version of autoseg.
    """
    remedy = f"Delete the folder {source.parent} to start this fold again."
    if content.get("version") != STATE_VERSION:
        found = content.get("version")
        raise CheckpointError(f"{source} has version {found!r:.20}; this autoseg reads {STATE_VERSION}. {remedy}")
    try:
        written_under = parse_json(content["plans"])
    except (ValueError, TypeError):
        written_under = None
    if not isinstance(written_under, dict):
        raise CheckpointError(f"{source} is damaged: it carries no plan. {remedy}")
    difference = _explain_difference(written_under, plans)
    if difference:
        raise CheckpointError(f"{source} was written under another plan ({difference}). {remedy}")
    try:
        state.network.load_state_dict(content["network"])
        state.averaged.load_state_dict(content["averaged"])
        for optimizer, saved in zip(state.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if content["scaler"]:  # empty where it was saved without float16
            state.scaler.load_state_dict(content["scaler"])
        for name in SAVED_NUMBERS:
            setattr(state, name, content[name])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:  # torch names what differs
        reason = explain_load_failure(error)
        raise CheckpointError(f"{source} does not fit this version's network: {reason}. {remedy}") from error
    state.saved_step, state.bad_steps, state.is_whole = state.step, 0, True


def _explain_difference(old: Mapping[str, Any], plans: Plans) -> str:
    """Name the fields of the plan that affect training and differ; inference and reasons may change on resuming."""
    new = plans.model_dump(mode="json")
    differing = [
        name for part in ("data", "network", "training") for name in _differing(old.get(part), new[part], part)
    ]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return ", ".join(differing[:3]) + more


def _differing(old: Any, new: Any, name: str) -> list[str]:
    if isinstance(old, list) and isinstance(new, list):  # such as the organs
        if len(old) != len(new):
            return [f"{name}: {len(old)} there, {len(new)} now"]
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [found for key in keys for found in _differing(old.get(key), new.get(key), f"{name}.{key}")]
    return [] if old == new else [f"{name}: {old!s:.40} there, {new!s:.40} now"]


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, *, decay: float, step: int) -> None:
    """Move the average towards the network; early steps count more, so that the beginning is forgotten soon."""
    decay = min(decay, (1 + step) / (10 + step))
    ours: list[Tensor] = list(averaged.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
