"""Orders the slices of a volume for prediction with the memory, which passes from each slice to the next.

Owns: `order_slices`. Slices are compared as small pictures, so that the order is known before any is encoded.

Source: CRISP-SAM2, similarity-sorted slices; SAM 2 takes frames in their order.
"""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from autoseg.config.plans import SliceOrder

PICTURE_PX = 16


def order_slices(image: Tensor, slices: Sequence[int], *, order: SliceOrder) -> list[int]:
    """Order some slices of a case.

    Args:
        image: (C, n, R, W), only these slices, preprocessed.
        slices: Their n numbers, ascending.
        order: "ascending"; "outwards" alternates to both sides of the slice most similar to all others; "similarity"
            starts there too, and always continues with the slice most similar to one already decoded.
    """
    numbers = list(slices)
    if order == "ascending" or len(numbers) < 3:
        return numbers
    similarity = compare_slices(image)
    start = int(similarity.sum(axis=1).argmax())
    if order == "outwards":
        return [numbers[i] for i in sorted(range(len(numbers)), key=lambda i: (abs(i - start), i))]
    places, nearest = [start], similarity[start].copy()
    while len(places) < len(numbers):
        nearest[places] = -np.inf
        places.append(int(nearest.argmax()))
        nearest = np.maximum(nearest, similarity[places[-1]])
    return [numbers[i] for i in places]


def compare_slices(image: Tensor) -> np.ndarray:
    """Return (S, S) correlations, -1 to 1, of all slices of (C, S, R, W), compared as pictures of 16 x 16 px."""
    pictures = F.adaptive_avg_pool2d(image.transpose(0, 1), PICTURE_PX).flatten(1)  # (S, C * 256)
    pictures = F.normalize(pictures - pictures.mean(dim=1, keepdim=True), dim=1)
    return (pictures @ pictures.T).cpu().numpy()
