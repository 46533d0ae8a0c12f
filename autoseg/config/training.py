"""Defines the part of a plan that decides a training run, given the network.

Owns: `TrainingPlan` with the weights of the loss, augmentation and sampling.
Does not own: training itself (`training/`), how a value is chosen (`rules/training.py`).
"""

from typing import Literal

from pydantic import Field

from autoseg.config.data import PlanPart


class LossPlan(PlanPart):
    """Weights of the terms of the loss; 0 leaves a term out."""

    dice: float = Field(1.0, ge=0, le=100, description="Dice loss of the final map")
    cross_entropy: float = Field(1.0, ge=0, le=100, description="cross-entropy of the final map")
    deep_supervision: float = Field(
        0.3, ge=0, le=100, description="Dice and cross-entropy loss of the refiner's coarser map"
    )
    mask: float = Field(0.5, ge=0, le=100, description="focal and Dice loss (20:1) of the mask decoder's masks")
    semantic: float = Field(0.3, ge=0, le=100, description="Dice and cross-entropy loss of the semantic decoder's map")
    iou: float = Field(0.05, ge=0, le=100, description="L1 loss between predicted and actual IoU")
    object_score: float = Field(
        0.05, ge=0, le=100, description="binary cross-entropy of the presence of an organ in a slice"
    )
    alignment: float = Field(0.1, ge=0, le=100, description="loss that aligns the masks of both decoders")


class AugmentationPlan(PlanPart):
    """Probabilities and ranges of the random augmentation of training slices."""

    mirror_axes: tuple[Literal["slice", "row", "column"], ...] = Field(
        (), description="axes that may be mirrored at random"
    )
    affine_probability: float = Field(0.5, ge=0, le=1, description="probability of in-plane rotation and scaling")
    rotation_degrees: float = Field(20.0, ge=0, le=180, description="maximum angle of a rotation, in degrees")
    scale_range: tuple[float, float] = Field((0.8, 1.25), description="smallest and largest in-plane scale")
    intensity_probability: float = Field(
        0.3, ge=0, le=1, description="probability of each of brightness, contrast, gamma, noise and blur"
    )
    noise_std: float = Field(0.3, ge=0, le=10, description="maximum noise, in standard deviations of the image")
    run_on: Literal["cpu", "device"] = Field(
        "cpu", description="where augmentation runs: on the CPU, or on the training device for a whole batch"
    )


class DatasetSamplingFraction(PlanPart):
    """The fraction of training steps drawn from one of several datasets."""

    dataset: str = Field(min_length=1, max_length=200, description="name of the dataset")
    fraction: float = Field(ge=0, le=1, description="fraction of all training steps")


class OrganSamplingWeight(PlanPart):
    """The frequency with which slices are drawn for one organ, relative to the others of its dataset."""

    organ: str = Field(min_length=1, max_length=200, description="name of the organ or region")
    weight: float = Field(ge=0, le=1e6, description="relative weight; organs that are not listed have 1")


class TrainingPlan(PlanPart):
    """Everything that decides a training run, given the network."""

    batch_slices: int = Field(8, ge=1, le=4096, description="slices per step and rank")
    gradient_accumulation: int = Field(1, ge=1, le=1000, description="micro-batches of batch_slices per optimizer step")
    memory_clip_every: int = Field(
        8, ge=1, le=1000, description="with a memory only: every n-th step uses clips, the others single slices"
    )
    memory_clip_slices: int = Field(4, ge=2, le=64, description="with a memory only: slices per clip, all of one case")
    memory_clip_stride: int = Field(
        3, ge=1, le=64, description="with a memory only: maximum distance of neighboring slices of a clip, in slices"
    )
    memory_gradient_slices: int = Field(
        2, ge=0, le=64, description="with a memory only: slices through which gradients flow back"
    )
    steps_per_epoch: int = Field(100, ge=1, le=100000, description="optimizer steps per epoch")
    epochs: int = Field(40, ge=1, le=100000, description="epochs of a run without a time limit")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="peak learning rate")
    refiner_optimizer: Literal["adamw", "muon"] = Field(
        "muon", description="optimizer of the refiner's kernels; AdamW updates all other weights"
    )
    muon_learning_rate_factor: float = Field(
        2.0, gt=0, le=100, description="learning rate of Muon, as a multiple of learning_rate"
    )
    weight_decay: float = Field(0.05, ge=0, le=1, description="decoupled weight decay")
    warmup_fraction: float = Field(
        0.03, ge=0, le=0.5, description="fraction of the run in which the learning rate rises"
    )
    freeze_fraction: float = Field(
        0.2, ge=0, le=1, description="with pretrained weights only: fraction of the run in which they are frozen"
    )
    pretrained_learning_rate_factor: float = Field(
        0.1, ge=0, le=1, description="with pretrained weights only: their learning rate, as a multiple of learning_rate"
    )
    layer_decay: float = Field(
        0.8,
        gt=0,
        le=1,
        description="with pretrained weights only: factor of the learning rate from each Hiera stage to the one before",
    )
    gradient_clip_norm: float = Field(5.0, gt=0, le=1000, description="maximum norm of the gradient")
    ema_decay: float = Field(
        0.99, ge=0, lt=1, description="decay per step of the exponential moving average of the weights"
    )
    foreground_oversampling: float = Field(
        0.67, ge=0, le=1, description="minimum fraction of slices that contain a chosen organ"
    )
    dataset_sampling_fractions: tuple[DatasetSamplingFraction, ...] = Field(
        (),
        max_length=1000,
        description="with several datasets only: how often a step draws from each; empty: in proportion to their cases",
    )
    organ_sampling_weights: tuple[OrganSamplingWeight, ...] = Field(
        (), max_length=4096, description="organs for which slices are drawn more or less often than for others"
    )
    point_prompt_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="with point_prompts only: fraction of a slice's organs that get simulated points or boxes",
    )
    organs_per_step: int = Field(16, ge=1, le=4096, description="maximum number of organs that one step asks for")
    num_folds: int = Field(5, ge=1, le=20, description="folds of the cross-validation")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of all random numbers of a run")
    loss: LossPlan = LossPlan()
    augmentation: AugmentationPlan = AugmentationPlan()
