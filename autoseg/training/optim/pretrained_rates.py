"""Which weights a run began with from a SAM2 checkpoint, and how slowly they move.

Owns: their rates: frozen in a first phase, then lower than the others', lower still towards the input.
Does not own: the optimizers (`optimizers.py`), what is loaded into which part (`weights/sam2_checkpoint.py`).

Sources: CRISP-SAM2, a first phase with the pretrained parts frozen; layer-wise rates as for any pretrained transformer.
"""

import re
from collections.abc import Iterable

from autoseg.config.plans import Plans
from autoseg.network.sam2_modules import HIERA_SIZES

HIERA = "image_encoder.hiera."


def pretrained_factors(pretrained: Iterable[str], *, plans: Plans) -> dict[str, float]:
    """Return for each pretrained weight its rate as a multiple of the others'.

    Args:
        pretrained: Names of the network's weights that came from a checkpoint.
        plans: Of the run.
    """
    training = plans.training
    return {
        name: training.pretrained_learning_rate_factor * training.layer_decay ** _stages_before_last(name, plans=plans)
        for name in pretrained
    }


def _stages_before_last(name: str, *, plans: Plans) -> int:
    """Return how many of Hiera's four stages lie between a weight and the end of it; 0 for other parts."""
    if not name.startswith(HIERA):
        return 0
    found = re.match(r"blocks\.(\d+)\.", name.removeprefix(HIERA))
    if found is None:
        return 3  # the embedding of patches and positions
    blocks = HIERA_SIZES[plans.network.backbone].blocks
    number = int(found.group(1))
    return next(3 - stage for stage in range(4) if number < sum(blocks[: stage + 1]))
