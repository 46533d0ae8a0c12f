"""Everything that a training run would lose if it were killed: `TrainState`, saved and loaded side by side.

Owns: the network, its averaged copy, the optimisers, the counters, `resume.pt`.
"""

import copy
import logging
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from autoseg.errors import CheckpointError, UsageError
from autoseg.files import atomic_path, parse_json, read_json
from autoseg.hub import find_weights
from autoseg.network.build import build_network
from autoseg.network.load_failures import explain_load_failure
from autoseg.network.model import AutosegNetwork
from autoseg.network.sam2_weights import WeightsReport, load_sam2_weights
from autoseg.plans import Plans
from autoseg.training.optimiser import build_optimisers

log = logging.getLogger("autoseg")


@dataclass
class TrainState:
    """A run between two steps.

    Attributes:
        network: The weights that the optimisers move.
        averaged: Their exponential moving average, which becomes the model.
        optimisers: AdamW, and Muon where the plan has it.
        scaler: Loss scaling for float16; inert elsewhere.
        weights: What became of the checkpoint that the run began from, if it was read in this sitting.
        step: Steps done.
        seconds: Time spent on them, over all sittings.
        bad_steps: Steps in a row, up to now, whose loss was not finite.
    """

    network: AutosegNetwork
    averaged: AutosegNetwork
    optimisers: tuple[torch.optim.Optimizer, ...]
    scaler: torch.amp.GradScaler
    weights: WeightsReport | None = None
    step: int = 0
    seconds: float = 0.0
    bad_steps: int = 0

    @cached_property
    def parameters(self) -> list[Parameter]:
        """The trained weights, in the network's order; listed once, since a network has hundreds of modules."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]


def new_state(
    plans: Plans,
    *,
    device: torch.device,
    needs_scaler: bool,
    offline: bool = False,
    pretrained: Collection[str] | None = None,
) -> TrainState:
    """Build a run's beginning, with weights drawn from the plan's seed and those of the checkpoint that it names.

    Args:
        plans: Of the run.
        device: Of the network.
        needs_scaler: Whether losses are scaled, for float16.
        offline: Take a checkpoint or text model of the hub from its cache only.
        pretrained: Of a run that goes on: the names of the weights that came from a checkpoint, which is not read
            again.

    Raises:
        CheckpointError: The checkpoint or text model cannot be had, or does not fit the plan.
    """
    torch.manual_seed(plans.training.seed)
    network = build_network(plans, offline=offline)
    report = None
    if plans.network.weights is not None and pretrained is None:
        path = find_weights(plans.network.weights, sha256=plans.network.weights_sha256, offline=offline)
        report = load_sam2_weights(network, path)
        pretrained = report.parameters
    network = network.to(device)
    return TrainState(
        network=network,
        averaged=copy.deepcopy(network).requires_grad_(False).eval(),
        optimisers=build_optimisers(network, plans=plans, pretrained=pretrained or ()),
        scaler=torch.amp.GradScaler(device.type, enabled=needs_scaler),
        weights=report,
    )


def read_pretrained(path: Path) -> list[str]:
    """Return the names of the weights that came from a checkpoint, as an earlier sitting wrote them down.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        content = read_json(path)
        names: list[str] = [name for name in content["parameters"] if isinstance(name, str)]
    except (UsageError, KeyError, TypeError):
        raise CheckpointError(
            f"{path} is damaged: it does not name the weights that training began from. Delete resume.pt beside it to "
            "start this fold again."
        ) from None
    return names


def save_state(state: TrainState, plans: Plans, path: Path) -> None:
    """Write `resume.pt`: tensors and plain values only, so that it loads without running code."""
    content = {
        "plans": plans.model_dump_json(),
        "network": state.network.state_dict(),
        "averaged": state.averaged.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in state.optimisers],
        "scaler": state.scaler.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_state(state: TrainState, plans: Plans, path: Path) -> None:
    """Fill a new state with a saved one.

    Raises:
        CheckpointError: The file is damaged, or was written under another plan.
    """
    content = _read_state(path, device=next(state.network.parameters()).device)
    difference = _explain_difference(_plans_of(content, path), plans)
    if difference:
        raise CheckpointError(
            f"{path} was written under another plan ({difference}). Delete it to start this fold with the new one."
        )
    try:
        state.network.load_state_dict(content["network"])
        state.averaged.load_state_dict(content["averaged"])
        for optimiser, saved in zip(state.optimisers, content["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        state.scaler.load_state_dict(content["scaler"])
        state.step, state.seconds = int(content["step"]), float(content["seconds"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:  # torch names what differs
        raise CheckpointError(
            f"{path} does not fit this version's network: {explain_load_failure(error)}. Delete it to start this "
            "fold again."
        ) from error
    log.info("continuing at step %d, after %.0f s of training", state.step, state.seconds)


def _read_state(path: Path, *, device: torch.device) -> dict[str, Any]:
    """Read what `save_state` wrote; nothing in the file is executed, and every byte is checked against its sum."""
    try:
        with zipfile.ZipFile(path) as archive:
            spoiled = archive.testzip()
        if spoiled is not None:
            raise zipfile.BadZipFile(f"{spoiled} does not have the checksum that it carries")
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # damage shows itself in a dozen types, from UnpicklingError to UnicodeDecodeError
        raise CheckpointError(
            f"{path} is damaged: {explain_load_failure(error)}. Delete it to start this fold again."
        ) from error
    keys = {"plans", "network", "averaged", "optimisers", "scaler", "step", "seconds"}
    if not isinstance(content, dict) or not keys <= set(content):
        raise CheckpointError(f"{path} is no training state of this version. Delete it to start this fold again.")
    return content


def _plans_of(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the plan that a state carries, as plain values.

    Raises:
        CheckpointError: It carries none.
    """
    try:
        written_under = parse_json(content["plans"])
    except (ValueError, TypeError):
        written_under = None
    if not isinstance(written_under, dict):
        raise CheckpointError(f"{path} is damaged: it carries no plan. Delete it to start this fold again.")
    return written_under


def _explain_difference(old: Mapping[str, Any], plans: Plans) -> str:
    """Name the fields that decide a training run and differ, or return nothing.

    Inference, reasons and the machine may change between two sittings.
    """
    new = plans.model_dump(mode="json")
    differing = [
        name for part in ("data", "network", "training") for name in _differing(old.get(part), new[part], part)
    ]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return ", ".join(differing[:3]) + more


def _differing(old: Any, new: Any, name: str) -> list[str]:
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
