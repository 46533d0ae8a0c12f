"""Lowers the learning rates of weights that came from a SAM2 checkpoint.

They are frozen in a first phase, and then train more slowly than the others, the more so the closer to the input.
Sources: CRISP-SAM2, a first phase with the pretrained parts frozen; layer-wise rates as for any pretrained transformer.
"""

import re
from collections.abc import Iterable

from autoseg.config.plans import Plans
from autoseg.network.sam2_modules import HIERA_SIZES

HIERA = "image_encoder.hiera."


def pretrained_factors(pretrained: Iterable[str], *, plans: Plans) -> dict[str, float]:
    """Return the factor of the learning rate of each weight that came from a checkpoint, by name."""
    training = plans.training
    return {
        name: training.pretrained_learning_rate_factor * training.layer_decay ** _stages_before_last(name, plans=plans)
        for name in pretrained
    }


def _stages_before_last(name: str, *, plans: Plans) -> int:
    """Return how many of Hiera's four stages follow that of a weight; 0 for other parts."""
    if not name.startswith(HIERA):
        return 0
    found = re.match(r"blocks\.(\d+)\.", name.removeprefix(HIERA))
    if found is None:
        return 3  # the embedding of patches and positions
    blocks = HIERA_SIZES[plans.network.backbone].blocks
    number = int(found.group(1))
    return next(3 - stage for stage in range(4) if number < sum(blocks[: stage + 1]))
