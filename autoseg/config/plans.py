"""Everything that determines a run, as one frozen, strict object: `Plans`.

Owns: the fields with their units and ranges, reading and writing of `plans.json`, overlays and `--set`.
Does not own: the data part (`data.py`), how a value is chosen (`planning/rules_*.py`).

The parts are grouped by what a change invalidates: `data` means to preprocess again, `network` new weights,
`training` a new run; `inference` may be changed at prediction.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

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
from autoseg.errors import PlanError
from autoseg.system.atomic_files import parse_json, read_json, write_json

__all__ = [
    "Axis",
    "ChannelPlan",
    "DataPlan",
    "DatasetPlan",
    "LabelPlan",
    "ModalityPlan",
    "OrganPlan",
    "RegionPlan",
]
VisitingOrder = Literal["outwards", "similarity", "ascending"]
Backbone = Literal["nano", "tiny", "small", "base_plus", "large"]
WindowPx = Annotated[int, Field(ge=16, le=4096, multiple_of=16)]
PLANS_VERSION: Literal[1] = 1
FAULTS_SHOWN = 20  # of a plan


class TextPlan(PlanPart):
    """The text tower (open_clip's), either small and trained from scratch or pretrained and frozen."""

    model: str = Field(
        "nano", max_length=200, description="'nano' (from scratch), 'learned' (a vector, no text), or open_clip's"
    )
    weights: str | None = Field(None, max_length=1000, description="open_clip tag or file; none: from scratch")
    max_tokens: int = Field(64, ge=8, le=1024, description="length of a sentence in tokens; longer ones are cut")


class NetworkPlan(PlanPart):
    """What decides the shapes of the weights."""

    backbone: Backbone = Field(description="size of SAM2's Hiera")
    weights: str | None = Field(
        None,
        max_length=1000,
        description="SAM2 checkpoint: a file, hf://OWNER/REPO@REVISION/FILE or a name such as sam2.1_hiera_tiny; none: "
        "from scratch",
    )
    weights_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 that this file must have, 64 hexadecimal digits; autoseg_plan finds it for the hub's",
    )
    text: TextPlan = TextPlan()
    image_size_px: int = Field(ge=32, le=2048, multiple_of=32, description="side of the square that the Hiera sees")
    window_rows_px: WindowPx = Field(description="in-plane window at target spacing, rows")
    window_columns_px: WindowPx = Field(description="in-plane window, columns")
    small_windows_px: tuple[tuple[WindowPx, WindowPx], ...] = Field(
        (), max_length=8, description="more windows, rows and columns, for scans whose slices they hold whole"
    )
    feature_channels: int = Field(64, ge=16, le=1024, multiple_of=16, description="D, width of prompts and features")
    interaction_levels: int = Field(2, ge=0, le=4, description="levels of text-image cross-attention")
    interaction_image_encoder: Literal["hiera", "clip"] = Field(
        "hiera", description="whose patches the text looks at: Hiera's, or those of text.model's image tower"
    )
    injection_stages: tuple[Annotated[int, Field(ge=0, le=3)], ...] = Field(
        (0, 1, 2, 3), description="Hiera stages at which the semantics enter"
    )
    prompt_tokens: int = Field(2, ge=1, le=16, description="sparse prompt tokens an organ")
    point_prompts: bool = Field(False, description="whether points and boxes may help the text, in Python")
    semantic_decoder: bool = Field(True, description="SEG-SAM's decoder beside SAM's")
    refiner_channels: tuple[Annotated[int, Field(ge=4, le=512, multiple_of=4)], ...] = Field(
        (16, 32, 64, 128),
        max_length=6,
        description="width of each refinement stage, full resolution first; none: the decoders' maps as they are",
    )
    context_slices: int = Field(1, ge=1, le=8, description="slices on each side that the refiner sees with a slice")
    refiner_stride: Literal[1, 2, 4] = Field(1, description="stride of the finest refinement stage")
    memory_slices: int = Field(0, ge=0, le=64, description="slices the memory bank holds; 0: each slice by itself")
    memory_mib: float = Field(
        256.0, gt=0, le=1e6, description="most MiB that the bank of a volume takes; fewer slices where they are large"
    )
    memory_attended_slices: int = Field(4, ge=1, le=64, description="slices of the bank that a slice looks at")
    memory_update: Literal["similarity", "fifo"] = Field("similarity", description="how a full bank makes room")

    @property
    def refiner_step_px(self) -> int:
        """What the sides of windows must be multiples of: a pixel of the coarsest refinement stage."""
        return self.refiner_stride * 2 ** max(0, len(self.refiner_channels) - 1)

    @property
    def windows_px(self) -> tuple[tuple[int, int], ...]:
        """All windows, rows and columns, the smallest first and the one for everything last."""
        small = sorted(self.small_windows_px, key=lambda window: window[0] * window[1])
        return (*small, (self.window_rows_px, self.window_columns_px))

    def window_of(self, slice_shape: tuple[int, int]) -> tuple[int, int]:
        """Return the window for a scan by the rows and columns of its slices: the smallest that holds them whole."""
        rows, columns = slice_shape
        fitting = (window for window in self.windows_px if window[0] >= rows and window[1] >= columns)
        return next(fitting, self.windows_px[-1])

    @model_validator(mode="after")
    def _window_fits_the_refiner(self) -> "NetworkPlan":
        step = self.refiner_step_px
        sides = [side for window in self.windows_px for side in window]
        if any(side % step or side < 2 * step for side in sides):
            raise ValueError(
                f"window_rows_px, window_columns_px and small_windows_px must be multiples of {step}, at least "
                f"{2 * step}: "
                f"refiner_stride {self.refiner_stride}, halved {len(self.refiner_channels) - 1} times. "
                "Another window, or fewer refiner_channels, would do"
            )
        return self

    @model_validator(mode="after")
    def _clip_tokens_have_a_model_and_a_reader(self) -> "NetworkPlan":
        if self.interaction_image_encoder == "clip" and self.text.model == "learned":
            raise ValueError(
                "interaction_image_encoder 'clip' is the image encoder of text.model, and 'learned' has none; set "
                "text.model to 'nano' or one of open_clip's, or interaction_image_encoder to 'hiera'"
            )
        if self.interaction_image_encoder == "clip" and not self.interaction_levels:
            raise ValueError(
                "interaction_image_encoder 'clip' makes tokens for the interaction, which interaction_levels 0 turns "
                "off; set interaction_levels to 1 or more, or interaction_image_encoder to 'hiera'"
            )
        return self


class LossPlan(PlanPart):
    """Weights of the terms of the loss."""

    dice: float = Field(1.0, ge=0, le=100, description="Dice of the final map")
    cross_entropy: float = Field(1.0, ge=0, le=100, description="cross-entropy of the final map")
    deep_supervision: float = Field(0.3, ge=0, le=100, description="Dice and cross-entropy of the coarser map")
    mask: float = Field(0.5, ge=0, le=100, description="focal and Dice (20:1) of the mask decoder's masks")
    semantic: float = Field(0.3, ge=0, le=100, description="Dice and cross-entropy of the semantic-aware decoder's map")
    iou: float = Field(0.05, ge=0, le=100, description="L1 of predicted against measured IoU")
    object_score: float = Field(0.05, ge=0, le=100, description="binary cross-entropy of organ presence")
    alignment: float = Field(0.1, ge=0, le=100, description="agreement of the two decoders' masks")


class AugmentationPlan(PlanPart):
    """Probabilities and ranges of the random changes of a training slice."""

    mirror_axes: tuple[Literal["slice", "row", "column"], ...] = Field((), description="axes that may be mirrored")
    affine_probability: float = Field(0.5, ge=0, le=1, description="rotation and scaling in-plane")
    rotation_degrees: float = Field(20.0, ge=0, le=180)
    scale_range: tuple[float, float] = Field((0.8, 1.25), description="smallest and largest in-plane scale")
    intensity_probability: float = Field(
        0.3, ge=0, le=1, description="each of brightness, contrast, gamma, noise, blur"
    )
    noise_std: float = Field(0.3, ge=0, le=10, description="most noise, in standard deviations of the image")
    run_on: Literal["cpu", "device"] = Field(
        "cpu", description="what makes these changes: the processor's cores, or the device that trains, a batch at once"
    )


class DatasetSamplingFraction(PlanPart):
    """The fraction of training steps drawn from one of several datasets."""

    dataset: str = Field(min_length=1, max_length=200, description="its name")
    fraction: float = Field(ge=0, le=1, description="of all steps")


class OrganSamplingWeight(PlanPart):
    """How often a slice is drawn for one organ, beside the others of its dataset."""

    organ: str = Field(min_length=1, max_length=200, description="its name, or a region's")
    weight: float = Field(ge=0, le=1e6, description="1 for every organ that is not named")


class TrainingPlan(PlanPart):
    """What decides a training run, given the network."""

    batch_slices: int = Field(8, ge=1, le=4096, description="slices a step; of each rank under torchrun")
    gradient_accumulation: int = Field(
        1, ge=1, le=1000, description="so many times batch_slices a step, batch_slices at once in memory"
    )
    memory_clip_every: int = Field(
        8, ge=1, le=1000, description="with a memory only: each so-many-th step takes clips, the others single slices"
    )
    memory_clip_slices: int = Field(
        4, ge=2, le=64, description="with a memory only: slices of one case that go through it in turn"
    )
    memory_clip_stride: int = Field(
        3, ge=1, le=64, description="with a memory only: most slices from one of a clip to the next"
    )
    memory_gradient_slices: int = Field(
        2, ge=0, le=64, description="with a memory only: slices of a clip back through which gradients flow"
    )
    steps_per_epoch: int = Field(100, ge=1, le=100000)
    epochs: int = Field(40, ge=1, le=100000, description="length where no time limit is given")
    learning_rate: float = Field(1e-3, gt=0, le=1)
    refiner_optimizer: Literal["adamw", "muon"] = Field("muon", description="moves the refiner's kernels")
    muon_learning_rate_factor: float = Field(
        2.0, gt=0, le=100, description="Muon's rate, as a multiple of learning_rate"
    )
    weight_decay: float = Field(0.05, ge=0, le=1)
    warmup_fraction: float = Field(0.03, ge=0, le=0.5, description="share of the run in which the rate rises")
    freeze_fraction: float = Field(
        0.2, ge=0, le=1, description="with pretrained weights only: share of the run in which they stay as they are"
    )
    pretrained_learning_rate_factor: float = Field(
        0.1, ge=0, le=1, description="with pretrained weights only: their rate, as a multiple of learning_rate"
    )
    layer_decay: float = Field(
        0.8,
        gt=0,
        le=1,
        description="with pretrained weights only: factor of the rate from a Hiera stage to the one before",
    )
    gradient_clip_norm: float = Field(5.0, gt=0, le=1000)
    ema_decay: float = Field(0.99, ge=0, lt=1, description="decay a step of the averaged weights")
    foreground_oversampling: float = Field(
        0.67, ge=0, le=1, description="least share of slices that hold a chosen organ"
    )
    dataset_sampling_fractions: tuple[DatasetSamplingFraction, ...] = Field(
        (), max_length=1000, description="with several datasets only: how often a step sees each; none: by their cases"
    )
    organ_sampling_weights: tuple[OrganSamplingWeight, ...] = Field(
        (), max_length=4096, description="organs that slices are drawn for more or less often than for others"
    )
    point_prompt_fraction: float = Field(
        0.5, ge=0, le=1, description="with point_prompts only: share of a slice's organs that are pointed at"
    )
    organs_per_step: int = Field(16, ge=1, le=4096, description="organs asked for in one step")
    num_folds: int = Field(5, ge=1, le=20)
    seed: int = Field(0, ge=0, lt=2**31)
    loss: LossPlan = LossPlan()
    augmentation: AugmentationPlan = AugmentationPlan()


class ComponentFilter(PlanPart):
    """Which detached pieces of an organ are taken for specks and removed from a label map."""

    organ: str = Field(min_length=1, max_length=200, description="its name")
    min_fraction: float = Field(0.0, ge=0, le=1, description="of the largest piece, under which a piece goes")
    min_volume_ml: float = Field(0.0, ge=0, le=1e6, description="volume under which a piece goes, the largest too")


class InferencePlan(PlanPart):
    """What may change at prediction without new weights."""

    window_overlap: float = Field(0.5, ge=0, le=0.9, description="share of a window that its neighbor sees too")
    mirror_axes: tuple[Literal["row", "column"], ...] = Field((), description="mirrored and averaged axes")
    slices_per_batch: int = Field(8, ge=1, le=4096)
    visiting_order: VisitingOrder = Field("outwards", description="with a memory only: which slice comes after which")
    slab_slices: int = Field(
        32, ge=1, le=4096, description="with a memory only: slices whose order is free, held at once"
    )
    component_filter: tuple[ComponentFilter, ...] = Field(
        (), description="organs whose small connected components are removed"
    )


SET_BY = "Set by"  # begins the reason of a value that a user chose


class Reason(PlanPart):
    """Why the planner chose a value."""

    rule: str = Field(max_length=2000, description="the rule, in a sentence")
    facts: dict[str, Any] = Field({}, description="what the rule looked at")


class Device(PlanPart):
    """The machine that the plan is made for."""

    kind: Literal["cpu", "cuda"]
    memory_gib: float = Field(gt=0, le=100000)
    cores: int | None = Field(
        None, ge=1, le=100000, description="of the processor beside a CUDA device; none: not known"
    )


class Plans(PlanPart):
    """A whole resolved plan."""

    version: Literal[1] = PLANS_VERSION
    dataset_name: str = Field(min_length=1, max_length=200)
    device: Device
    data: DataPlan
    network: NetworkPlan
    training: TrainingPlan
    inference: InferencePlan
    reasons: dict[str, Reason] = Field({}, description="field, such as network.backbone, to its reason")
    changes: tuple[str, ...] = Field((), description="overlays and --set, in the order they were applied")

    @property
    def memory_clip_slices(self) -> int:
        """Slices that a training step with clips takes together from one case: 1 without a memory."""
        return self.training.memory_clip_slices if self.network.memory_slices else 1

    def clip_slices_of(self, step: int) -> int:
        """Slices that this step takes together from one case."""
        return self.memory_clip_slices if step % self.training.memory_clip_every == 0 else 1

    @property
    def slices_per_step(self) -> int:
        """Slices that a rank has in memory at once: whole clips in `training.batch_slices`, at least one."""
        return self.memory_clip_slices * max(1, self.training.batch_slices // self.memory_clip_slices)

    @model_validator(mode="after")
    def _shares_are_of_known_names(self) -> "Plans":
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
                raise ValueError(f"training.{place}: {max(names, key=names.count)!r} stands there twice")
        for weight in self.training.organ_sampling_weights:
            if weight.organ not in labels:
                raise ValueError(f"training.organ_sampling_weights: no organ or region is called {weight.organ!r}")
        return self

    @model_validator(mode="after")
    def _clicks_are_drawn_on_changed_slices(self) -> "Plans":
        if self.network.point_prompts and self.training.augmentation.run_on == "device":
            raise ValueError(
                "training.augmentation.run_on 'device' changes slices after they were made, and with "
                "network.point_prompts clicks are drawn on changed ones; set training.augmentation.run_on to 'cpu'"
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
                raise ValueError(f"inference.component_filter: {name!r} stands there twice")
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
        lines = "\n".join(_explain(error))
        raise PlanError(f"{source:.300} is not a valid plan. Mend these fields, or plan again:\n{lines}") from error


def apply_overlay(plans: Plans, overlay: Mapping[str, Any], *, source: str) -> Plans:
    """Return the plan with the values of a partial plan; its "why" is kept in `changes`.

    Raises:
        PlanError: A name does not exist (the nearest one is shown), or a value is out of range.
    """
    content = plans.model_dump(mode="json")
    why = overlay.get("why", "")
    changes = {key: value for key, value in overlay.items() if key not in ("why", "changes")}  # whose record is ours
    _merge(content, changes, path="", source=source)
    content["changes"] = [*plans.changes, f"{source}: {why!s:.1000}" if why else source]
    return parse_plans(content, source=source)


def apply_settings(plans: Plans, settings: Sequence[str]) -> Plans:
    """Return the plan changed by `--set` words such as "network.memory_slices=4"; values are JSON or plain text.

    They are checked together, so their order does not matter where one needs another.
    """
    content = plans.model_dump(mode="json")
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise PlanError(f"--set {setting}: expected KEY=VALUE, such as training.batch_slices=4.")
        try:
            value = parse_json(text)
        except ValueError:
            value = text
        for name in reversed(key.split(".")):
            value = {name: value}
        _merge(content, value, path="", source=f"--set {setting}")
    words = [f"--set {setting}" for setting in settings]
    content["changes"] = [*plans.changes, *words]
    return parse_plans(content, source=" ".join(words))


def _merge(content: dict[str, Any], changes: Mapping[str, Any], *, path: str, source: str) -> None:
    for key, value in changes.items():
        if key not in content:
            near = difflib.get_close_matches(key[:200], content, n=1)
            hint = f" Did you mean {path}{near[0]}?" if near else f" Known here: {', '.join(content)[:400]}."
            raise PlanError(f"{source:.200}: there is no field {path:.200}{key:.200} in the plan.{hint}")
        if isinstance(value, Mapping) and isinstance(content[key], dict):
            _merge(content[key], value, path=f"{path}{key}.", source=source)
        else:
            content[key] = value


def _explain(error: ValidationError) -> list[str]:
    lines = []
    faults = error.errors(include_url=False)
    for item in faults[:FAULTS_SHOWN]:
        place = ".".join(str(part) for part in item["loc"]) or "the plan"
        got = "" if isinstance(item["input"], (dict, list)) else f" (got {str(item['input'])[:80]!r})"
        lines.append(f"  {place:.200}: {item['msg']:.400}{got}")
    more = len(faults) - FAULTS_SHOWN
    return [*lines, f"  and {more} more"] if more > 0 else lines
