"""The part of a plan that decides a training run, given the network.

Owns: `TrainingPlan` with the weights of the loss, augmentation and sampling.
Does not own: training itself (`training/`), how a value is chosen (`rules/training.py`).
"""

from typing import Literal

from pydantic import Field

from autoseg.config.data import PlanPart


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
        0.5, ge=0, le=1, description="with point_prompts only: share of a slice's organs that are encoded_prompts at"
    )
    organs_per_step: int = Field(16, ge=1, le=4096, description="organs asked for in one step")
    num_folds: int = Field(5, ge=1, le=20)
    seed: int = Field(0, ge=0, lt=2**31)
    loss: LossPlan = LossPlan()
    augmentation: AugmentationPlan = AugmentationPlan()
