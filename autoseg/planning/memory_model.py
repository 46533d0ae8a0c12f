"""How much memory a training step or a prediction needs on a GPU: a small linear model.

Owns: the coefficients, and the estimate.
Does not own: what is chosen with it (`rules_network.py`, `rules_training.py`).

**The coefficients are estimates, not measurements.** They follow from counts (parameters, maps kept for the backward
pass in bfloat16) and from the published behaviour of SAM2's Hiera; no CUDA device has been measured yet. They are to
be replaced by a fit to committed measurements; until then a plan for CUDA says so in its reasons, and
`--set training.batch_slices=N` is the remedy.
"""

from dataclasses import dataclass

from autoseg.plans import Backbone

GIB = 2.0**30
BYTES_PER_PARAMETER = 20  # weight, gradient, two moments of AdamW, averaged weight: five float32
RESERVED_GIB = 1.0  # CUDA context, cuDNN work space, fragmentation
USABLE_SHARE = 0.9  # of the device's memory
MAPS_PER_REFINER_PIXEL = 10  # maps of the first stage's width that a U-shaped branch keeps, all stages together
MAPS_PER_ORGAN_PIXEL = 6  # masks, logits, probabilities and their gradients at full resolution, an organ
MODEL_NOTE = "by an estimate that is not yet fitted to measurements on CUDA"


@dataclass(frozen=True)
class BackboneCost:
    """What a backbone costs.

    Attributes:
        parameters_millions: Parameters of image encoder, decoders and memory together.
        activation_gib_per_megapixel: Maps kept for the backward pass, for each million pixels the Hiera sees.
        least_memory_gib: The smallest device for which the planner chooses it.
    """

    parameters_millions: float
    activation_gib_per_megapixel: float
    least_memory_gib: float


BACKBONE_COSTS: dict[Backbone, BackboneCost] = {
    "nano": BackboneCost(3, 0.8, 0),
    "tiny": BackboneCost(45, 3.0, 0),
    "small": BackboneCost(52, 3.6, 12),
    "base_plus": BackboneCost(88, 5.5, 24),
    "large": BackboneCost(235, 9.5, 48),
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
        backbone: Size of the Hiera.
        image_size_px: Side of the square that the Hiera sees.
        window_px: Pixels of the in-plane window, rows times columns.
        refiner_width: Channels of the refiner's first stage.
        batch_slices: Slices a step.
        num_organs: Organs asked for in one step.
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
