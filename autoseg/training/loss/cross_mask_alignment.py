"""Computes the cross-mask spatial alignment: the Dice between the masks of both decoders.

Source: SEG-SAM, cross-mask spatial alignment.

Legend: B slices, K organs, h4 x w4 the grid at stride 4.
"""

from torch import Tensor

from autoseg.training.loss.dice import dice_sums


def alignment_sums(masks: Tensor, map_logits: Tensor, *, known: Tensor, annotated: Tensor) -> Tensor:
    """Sum the terms of the Dice between the masks of SAM's decoder and of the semantic-aware decoder.

    Args:
        masks: (B, K, h4, w4) probabilities from SAM's decoder.
        map_logits: (B, 1 + K, h4, w4) from the semantic-aware decoder, background first.
        known: (B, K, h4, w4) 1 where the reference is known.
        annotated: (B, K) 1 for organs that were annotated in the case.
    """
    return dice_sums(masks, map_logits.softmax(dim=1)[:, 1:], known, annotated)
