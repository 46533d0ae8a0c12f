"""Which weights a run began with from a SAM2 checkpoint, and how slowly they move.

Owns: their rates: frozen in a first phase, then lower than the others', lower still towards the input.
Does not own: the optimisers (`optimiser.py`), what is loaded into which part (`network/sam2_weights.py`).

Sources: CRISP-SAM2, a first phase with the pretrained parts frozen; layer-wise rates as for any pretrained transformer.
"""

import re
from collections.abc import Iterable

from autoseg.network.sam2_parts import HIERA_SIZES
from autoseg.plans import Plans

SAM2_CHANNELS = 256  # other parts than Hiera fit at SAM2's own width alone
HIERA = "image_encoder.hiera."
OTHER_PARTS = (
    "image_encoder.neck.",
    "mask_decoder.decoder.",
    "click_encoder.encoder.",
    "memory.attention.",
    "memory.encoder.",
    "memory.tokens.",
)


def pretrained_factors(names: Iterable[str], *, plans: Plans) -> dict[str, float]:
    """Return the pretrained ones among the names of weights, each with its rate as a multiple of the others'.

    Args:
        names: Of the network's weights.
        plans: Of the run; without `network.weights` nothing is pretrained.
    """
    if plans.network.weights is None:
        return {}
    training = plans.training
    parts = (HIERA, *OTHER_PARTS) if plans.network.feature_channels == SAM2_CHANNELS else (HIERA,)
    return {
        name: training.pretrained_rate_factor * training.layer_decay ** _stages_before_last(name, plans=plans)
        for name in names
        if name.startswith(parts)
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
