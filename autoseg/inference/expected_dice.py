"""Estimates the Dice of the network's own masks from its probabilities, as a measure of confidence.

Owns: `ExpectedDice`, which is updated with each map of a case.

Legend: K organs, R x W a slice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from autoseg.errors import CheckpointError


@dataclass(frozen=True)
class ExpectedDice:
    """Sums over the pixels of a case, on the preprocessed grid; float64, on the maps' device.

    Attributes:
        pixels: (1 + K) the number of pixels where the organ, or background, is the most probable.
        inside: (1 + K) its probability, summed over those pixels.
        everywhere: (1 + K) its probability, summed over all pixels.
    """

    pixels: Tensor
    inside: Tensor
    everywhere: Tensor

    @classmethod
    def zeros(cls, num_organs: int, *, device: torch.device | str = "cpu") -> "ExpectedDice":
        """Return the sums before the first map."""
        return cls(*torch.zeros(3, 1 + num_organs, dtype=torch.float64, device=device))

    def add(self, probs: Tensor) -> None:
        """Add maps (n, 1 + K, R, W) of probabilities.

        Raises:
            CheckpointError: The maps are not finite. On a GPU, `values` raises it, so that nothing waits here.
        """
        if probs.is_cuda:
            self._add(probs, slice(None), best=probs.amax(dim=1, keepdim=True))
            return
        for one in probs.split(1):  # one map after the other, which the cache holds
            best = one.amax(dim=1, keepdim=True)
            for number in range(one.shape[1]):
                self._add(one, slice(number, number + 1), best=best)
        self._check()

    def _add(self, probs: Tensor, part: slice, *, best: Tensor) -> None:
        """Add some of the maps of some slices; `best` is (n, 1, R, W)."""
        is_best = (probs[:, part] == best).to(probs.dtype)
        self.pixels[part] += is_best.sum(dim=(0, 2, 3))
        self.inside[part] += torch.einsum("nkrw,nkrw->k", is_best, probs[:, part])
        self.everywhere[part] += probs[:, part].sum(dim=(0, 2, 3))

    def values(self) -> list[float | None]:
        """Return the expected Dice of each organ if every probability is right; None for an organ that is absent.

        A pixel that belongs to the organ with probability p contributes an expected 2 p to the numerator 2 |A and B|,
        and p to the denominator |A| + |B|. The ratio of the expectations approximates the expectation of the ratio,
        from which it differs little for many pixels.
        """
        self._check()
        dice = []
        for pixels, inside, everywhere in torch.stack([self.pixels, self.inside, self.everywhere]).T[1:].tolist():
            dice.append(2 * inside / (pixels + everywhere) if pixels else None)
        return dice

    def _check(self) -> None:
        if not self.everywhere.isfinite().all():
            raise CheckpointError(
                "the network's output is not finite: the model is damaged, or half precision is too narrow for it. "
                "Copy the model again, or predict with --device cpu."
            )
