"""Estimates the memory that a training step or a prediction needs on a GPU, by a small linear model.

Owns: the coefficients, and the estimate.
Does not own: the choices made with it (`network.py`, `training.py`).

The coefficients were fitted to `docs/results/cuda_memory.json` (`benchmarks/cuda_memory.py`; one H200, bfloat16, two to
eight slices of 128 to 512 px, 2 and 14 organs): with the reserve, no step there needed more; without it, steps over
3 GiB are predicted to within 8 %. Hiera and refiner saw the same pixels there; the division of their cost is from a run
in which they did not (`hippocampus_cuda.json`). The memory over slices and a CLIP image tower are not included:
`--set training.batch_slices=N` is the remedy if memory runs out.
"""

from dataclasses import dataclass

from autoseg.config.plans import Backbone

GIB = 2.0**30
BYTES_PER_PARAMETER = 20  # weight, gradient, two moments of AdamW, averaged weight: five float32
RESERVED_GIB = 1.0  # CUDA context, fragmentation, what the fit misses
USABLE_SHARE = 0.9  # of the device's memory
MAPS_PER_REFINER_PIXEL = 40  # of the first stage's width in bfloat16, all stages together; norms keep float32
MAPS_PER_ORGAN_PIXEL = 27  # logits, probabilities, terms of the losses and their gradients, float32, an organ
MODEL_NOTE = "by a model fitted to measurements on one GPU"


@dataclass(frozen=True)
class BackboneCost:
    """The cost of a backbone.

    Attributes:
        parameters_millions: The parameters of image encoder, decoders and memory together.
        activation_gib_per_megapixel: The activations for the backward pass, per million pixels that Hiera sees.
        least_memory_gib: The memory of the smallest device for which the planner chooses it.
    """

    parameters_millions: float
    activation_gib_per_megapixel: float
    least_memory_gib: float


BACKBONE_COSTS: dict[Backbone, BackboneCost] = {
    "nano": BackboneCost(3, 0.9, 0),
    "tiny": BackboneCost(45, 2.3, 0),
    "small": BackboneCost(52, 2.5, 12),
    "base_plus": BackboneCost(88, 2.8, 24),
    "large": BackboneCost(235, 5.9, 48),
}


def estimate_training_gib(
    backbone: Backbone,
    *,
    image_size_px: int,
    window_px: int,
    refiner_width: int,
    batch_slices: int,
    num_organs: int,
) -> float:
    """Estimate the peak memory of a training step.

    Args:
        backbone: The size of Hiera.
        image_size_px: The side of the square that Hiera sees.
        window_px: The number of pixels of the window.
        refiner_width: The channels of the refiner's first stage.
        batch_slices: The number of slices per step.
        num_organs: The number of organs asked for in one step.
    """
    cost = BACKBONE_COSTS[backbone]
    fixed = cost.parameters_millions * 1e6 * BYTES_PER_PARAMETER / GIB + RESERVED_GIB
    encoder = image_size_px**2 / 1e6 * cost.activation_gib_per_megapixel
    refiner = window_px * refiner_width * MAPS_PER_REFINER_PIXEL * 2 / GIB  # bfloat16
    organs = window_px * num_organs * MAPS_PER_ORGAN_PIXEL * 4 / GIB  # float32
    return fixed + batch_slices * (encoder + refiner + organs)


def usable_gib(memory_gib: float) -> float:
    """Return the part of a device's memory that a plan may fill."""
    return memory_gib * USABLE_SHARE
