"""How sure the network is of what it says, as the Dice that it expects of its own masks.

Owns: `Confidence`, gathered while the maps of a case go by.

Legend: K organs, R x W a slice.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from autoseg.errors import CheckpointError


@dataclass(frozen=True)
class Confidence:
    """Sums over the pixels of a case, on the preprocessed grid; float64, on the maps' device.

    Attributes:
        pixels: (1 + K) where the organ, or background, is the most probable.
        inside: (1 + K) its probability, summed over those.
        everywhere: (1 + K) its probability, summed over all pixels.
    """

    pixels: Tensor
    inside: Tensor
    everywhere: Tensor

    def watch(self, slices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Pass maps (1 + K, R, W) of probabilities on, and add them up.

        Raises:
            CheckpointError: They are not finite. On a GPU, which is not waited for, only the end tells.
        """
        for probs in slices:
            best = probs.amax(dim=0)
            step = len(probs) if probs.is_cuda else 1  # a CPU's cache holds one map
            for start in range(0, len(probs), step):
                part = slice(start, start + step)
                is_best = (probs[part] == best).to(probs.dtype)
                self.pixels[part] += is_best.sum(dim=(1, 2))
                self.inside[part] += torch.einsum("krw,krw->k", is_best, probs[part])
                self.everywhere[part] += probs[part].sum(dim=(1, 2))
            if not probs.is_cuda:
                self._check()
            yield probs
        self._check()

    def expected_dice(self) -> list[float | None]:
        """Return for each organ the Dice that is to be expected if every probability is right; None where it is absent.

        Of a pixel that truly belongs to the organ with probability p, 2 p is expected in the numerator 2 |A and B|, and
        p in the denominator |A| + |B|; the ratio of the expectations stands for the expectation of the ratio, from
        which it differs little where many pixels add up.
        """
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


def no_confidence(num_organs: int, *, device: torch.device | str = "cpu") -> Confidence:
    """Begin with nothing seen."""
    return Confidence(*torch.zeros(3, 1 + num_organs, dtype=torch.float64, device=device))
