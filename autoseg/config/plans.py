"""Defines `Plans`, a frozen and strict object with everything that determines a run.

Owns: `Plans`, the conditions among its parts, and reading and writing of `plans.json`.
Does not own: the fields of the parts (`data.py`, `network.py`, `training.py`, `inference.py`), changes by a user
(`overrides.py`), how a value is chosen (`planning/rules/`).

The parts are grouped by what a change invalidates: a change of `data` means preprocessing again, one of `network` new
weights, and one of `training` a new run. `inference` may change at prediction.
"""

import difflib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from autoseg.config.data import (
    Axis,
    ChannelPlan,
    DataPlan,
    DatasetPlan,
    LabelPlan,
    ModalityPlan,
    OrganPlan,
    PlanPart,
    RegionPlan,
)
from autoseg.config.inference import ComponentFilter, InferencePlan, SliceOrder
from autoseg.config.network import Backbone, NetworkPlan, TextPlan
from autoseg.config.training import (
    AugmentationPlan,
    DatasetSamplingFraction,
    LossPlan,
    OrganSamplingWeight,
    TrainingPlan,
)
from autoseg.errors import PlanError
from autoseg.system.atomic_files import read_json, write_json

__all__ = [
    "AugmentationPlan",
    "Axis",
    "Backbone",
    "ChannelPlan",
    "ComponentFilter",
    "DataPlan",
    "DatasetPlan",
    "DatasetSamplingFraction",
    "Device",
    "InferencePlan",
    "LabelPlan",
    "LossPlan",
    "ModalityPlan",
    "NetworkPlan",
    "OrganPlan",
    "OrganSamplingWeight",
    "Plans",
    "Reason",
    "RegionPlan",
    "SliceOrder",
    "TextPlan",
    "TrainingPlan",
    "parse_plans",
    "read_plans",
    "write_plans",
]
PLANS_VERSION: Literal[1] = 1
MAX_ERRORS_SHOWN = 20  # of a plan
SET_BY = "Set by"  # begins the reason of a value that the user sets


class Reason(PlanPart):
    """Why the planner chose a value."""

    rule: str = Field(max_length=2000, description="the rule in one or two sentences")
    facts: dict[str, Any] = Field({}, description="the facts that the rule used")


class Device(PlanPart):
    """The device that the plan is made for."""

    kind: Literal["cpu", "cuda"]
    memory_gib: float = Field(gt=0, le=100000)
    cores: int | None = Field(None, ge=1, le=100000, description="CPU cores beside a CUDA device; null if unknown")


class Plans(PlanPart):
    """A complete plan of a run."""

    version: Literal[1] = PLANS_VERSION
    dataset_name: str = Field(min_length=1, max_length=200)
    device: Device
    data: DataPlan
    network: NetworkPlan
    training: TrainingPlan
    inference: InferencePlan
    reasons: dict[str, Reason] = Field({}, description="reason of each value, by field such as network.backbone")
    overrides: tuple[str, ...] = Field(
        (), description="overlays and --set words, in the order in which they were applied"
    )

    @property
    def memory_clip_slices(self) -> int:
        """Return the slices per clip in a training step with clips: 1 without a memory."""
        return self.training.memory_clip_slices if self.network.memory_slices else 1

    def clip_slices_of(self, step: int) -> int:
        """Return the slices per clip in this step."""
        return self.memory_clip_slices if step % self.training.memory_clip_every == 0 else 1

    @property
    def slices_per_step(self) -> int:
        """Return the slices that a rank computes at once: whole clips in `training.batch_slices`, at least one."""
        return self.memory_clip_slices * max(1, self.training.batch_slices // self.memory_clip_slices)

    @model_validator(mode="after")
    def _sampled_names_are_known(self) -> "Plans":
        datasets, labels = [one.name for one in self.data.datasets], self.data.label_names
        for share in self.training.dataset_sampling_fractions:
            if share.dataset not in datasets:
                raise ValueError(
                    f"training.dataset_sampling_fractions: no dataset of the plan is called {share.dataset!r}"
                )
        if self.training.dataset_sampling_fractions and not any(
            share.fraction for share in self.training.dataset_sampling_fractions
        ):
            raise ValueError("training.dataset_sampling_fractions: at least one dataset needs a share above 0")
        for place, names in (
            ("dataset_sampling_fractions", [share.dataset for share in self.training.dataset_sampling_fractions]),
            ("organ_sampling_weights", [weight.organ for weight in self.training.organ_sampling_weights]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"training.{place}: {max(names, key=names.count)!r} occurs twice")
        for weight in self.training.organ_sampling_weights:
            if weight.organ not in labels:
                raise ValueError(f"training.organ_sampling_weights: no organ or region is called {weight.organ!r}")
        return self

    @model_validator(mode="after")
    def _points_are_drawn_on_augmented_slices(self) -> "Plans":
        if self.network.point_prompts and self.training.augmentation.run_on == "device":
            raise ValueError(
                "training.augmentation.run_on 'device' changes slices after they were made, and with "
                "network.point_prompts points are drawn on changed ones; set training.augmentation.run_on to 'cpu'"
            )
        return self

    @model_validator(mode="after")
    def _cleaned_organs_are_known(self) -> "Plans":
        known = [organ.name for organ in self.data.organs]
        cleaned = [cleaning.organ for cleaning in self.inference.component_filter]
        for name in cleaned:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1) or known[:1]
                raise ValueError(f"inference.component_filter: no organ is called {name!r}; did you mean {near[0]!r}?")
            if cleaned.count(name) > 1:
                raise ValueError(f"inference.component_filter: {name!r} occurs twice")
        return self


def read_plans(path: Path) -> Plans:
    """Read `plans.json`.

    Raises:
        PlanError: A field is missing, unknown, or out of its range; all of them are named at once.
    """
    return parse_plans(read_json(path), source=str(path))


def write_plans(plans: Plans, path: Path) -> None:
    """Write `plans.json`; `read_plans` gives the same object back."""
    write_json(path, plans.model_dump(mode="json"))


def parse_plans(content: Any, *, source: str) -> Plans:
    """Check untrusted content against the schema; `source` names it in the error."""
    try:
        return Plans.model_validate(content)
    except ValidationError as error:
        lines = "\n".join(list_errors(error))
        raise PlanError(f"{source:.300} is not a valid plan. Correct these fields, or plan again:\n{lines}") from error


def list_errors(error: ValidationError, *, part: str = "") -> list[str]:
    """List what is wrong with a plan, one field per line; `part` is the name of the part that was checked."""
    errors = error.errors(include_url=False)
    lines = []
    for item in errors[:MAX_ERRORS_SHOWN]:
        names = [*([part] if part else []), *map(str, item["loc"])]
        got = "" if isinstance(item["input"], (dict, list)) else f" (got {str(item['input'])[:80]!r})"
        lines.append(f"  {'.'.join(names) or 'the plan':.200}: {item['msg']:.400}{got}")
    more = len(errors) - MAX_ERRORS_SHOWN
    return [*lines, f"  and {more} more"] if more > 0 else lines
