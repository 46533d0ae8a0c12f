"""Defines what a network returns, `NetworkOutput`, and the intermediate `DecodedSlices`.

Legend: B slices, K requested organs, D channels, R x W the window, h4 x w4 the image encoder's grid at stride 4.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from autoseg.network.mask_decoder import DecodedMasks
from autoseg.network.memory.memory_bank import MemoryBank
from autoseg.network.semantic_decoder import SemanticMap


@dataclass(frozen=True)
class NetworkOutput:
    """Everything that the losses and the predictor need.

    A network of your own may return `logits` alone: the loss leaves out the terms of all outputs that are None.

    Attributes:
        logits: (B, 1 + K, R, W) the final map, background first.
        coarse_logits: (B, 1 + K, R / 2, W / 2) or None: deep supervision of the refiner.
        mask_logits: (B, K, h4, w4) of SAM's decoder.
        map_logits: (B, 1 + K, h4, w4) of the semantic-aware decoder, or None where the plan leaves it out.
        iou_predictions: (B, K) predicted IoU of `mask_logits`.
        object_score_logits: (B, K) of SAM's decoder.
        semantic_object_score_logits: (B, K) of the semantic-aware decoder, or None.
        bank: The memory after these slices (in training without the last), or None where no memory was used.

    Example:
        >>> return autoseg.NetworkOutput(logits)  # in the forward() of your own network
    """

    logits: Tensor
    coarse_logits: Tensor | None = None
    mask_logits: Tensor | None = None
    map_logits: Tensor | None = None
    iou_predictions: Tensor | None = None
    object_score_logits: Tensor | None = None
    semantic_object_score_logits: Tensor | None = None
    bank: MemoryBank | None = None

    def float(self) -> "NetworkOutput":
        """Return everything in full precision, as losses need it after autocast."""
        full: dict[str, Any] = {name: v.float() for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **full)


@dataclass(frozen=True)
class DecodedSlices:
    """The results of both decoders for some slices.

    Attributes:
        masks: The masks of SAM's decoder.
        mapped: The map of the semantic-aware decoder, or None.
        fine: (B, D, h4, w4) fused features, for the refiner.
    """

    masks: DecodedMasks
    mapped: SemanticMap | None
    fine: Tensor

    @property
    def probs(self) -> Tensor:
        """(B, K, h4, w4) probabilities, the mean of both decoders'."""
        probs = self.masks.mask_logits.sigmoid()
        return probs if self.mapped is None else 0.5 * (probs + self.mapped.map_logits.softmax(dim=1)[:, 1:])
