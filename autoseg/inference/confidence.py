"""How sure the network is of what it says, as the Dice that it expects of its own masks.

Owns: `Confidence`, gathered while the maps of a case go by.

Legend: K organs, R x W a slice.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from autoseg.errors import CheckpointError


@dataclass(frozen=True)
class Confidence:
    """Sums over the pixels of a case, on the preprocessed grid.

    Attributes:
        pixels: (1 + K) where the organ, or background, is the most probable.
        inside: (1 + K) its probability, summed over those.
        everywhere: (1 + K) its probability, summed over all pixels.
    """

    pixels: np.ndarray
    inside: np.ndarray
    everywhere: np.ndarray

    def watch(self, slices: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass maps (1 + K, R, W) of probabilities on, and add them up.

        Raises:
            CheckpointError: They are not finite.
        """
        for probs in slices:
            winners = probs.argmax(axis=0).ravel()
            best = probs.max(axis=0).ravel()
            num_maps = len(self.pixels)
            total = probs.sum(axis=(1, 2), dtype=np.float64)
            if not np.isfinite(total).all():
                raise CheckpointError(
                    "the network's output is not finite: the model is damaged, or half precision is too narrow for it. "
                    "Copy the model again, or predict with --device cpu."
                )
            np.add(self.pixels, np.bincount(winners, minlength=num_maps), out=self.pixels)
            np.add(self.inside, np.bincount(winners, weights=best, minlength=num_maps), out=self.inside)
            np.add(self.everywhere, total, out=self.everywhere)
            yield probs

    def expected_dice(self) -> list[float | None]:
        """Return for each organ the Dice that is to be expected if every probability is right; None where it is absent.

        Of a pixel that truly belongs to the organ with probability p, 2 p is expected in the numerator 2 |A and B|, and
        p in the denominator |A| + |B|; the ratio of the expectations stands for the expectation of the ratio, from
        which it differs little where many pixels add up.
        """
        dice = []
        for pixels, inside, everywhere in zip(self.pixels[1:], self.inside[1:], self.everywhere[1:], strict=True):
            dice.append(float(2 * inside / (pixels + everywhere)) if pixels else None)
        return dice


def no_confidence(num_organs: int) -> Confidence:
    """Begin with nothing seen."""
    return Confidence(*(np.zeros(1 + num_organs) for _ in range(3)))
