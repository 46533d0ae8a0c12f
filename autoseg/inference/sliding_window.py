"""Slices of a case through the network: batched, tiled in-plane where they exceed the window, mirrored and averaged.

Owns: `predict_slices`, one probability map a slice, in order, nothing of size (organs x scan).
Does not own: how a scan becomes slices and back (`preprocessing/case.py`).

Legend: S slices, B of them at once, C channels, N neighbouring slices, K organs asked for, R x W a slice, r x w the
window.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from autoseg.network.cores import ONE_CORE, Cores
from autoseg.network.device import mixed_precision
from autoseg.network.model import AutosegNetwork
from autoseg.network.neighbours import neighbour_numbers
from autoseg.plans import InferencePlan, Plans

SIGMA_SHARE = 0.25  # of the window's side; the weight falls to 0.14 at the middle of its edge


def predict_slices(
    networks: Sequence[AutosegNetwork],
    image: np.ndarray,
    *,
    plans: Plans,
    organs: Sequence[int],
    device: torch.device,
    cores: Cores = ONE_CORE,
) -> Iterator[np.ndarray]:
    """Predict a case slice by slice.

    Args:
        networks: One, or the models of several folds, which are averaged.
        image: (C, S, R, W) preprocessed.
        plans: Window, overlap, mirroring, batch.
        organs: (K) positions in the plan.
        device: Where the networks are.
        cores: Share the slices of a batch.

    Yields:
        S arrays (1 + K, R, W) of probabilities, background first, float32.
    """
    window = (plans.network.window_rows_px, plans.network.window_columns_px)
    num_slices, shape = image.shape[1], image.shape[2:]
    padding = [max(0, want - have) for want, have in zip(window, shape, strict=True)]
    before = [missing // 2 for missing in padding]
    padded = (shape[0] + padding[0], shape[1] + padding[1])
    corners = list(
        itertools.product(
            *(window_starts(n, w, plans.inference.window_overlap) for n, w in zip(padded, window, strict=True))
        )
    )
    weight = torch.from_numpy(gaussian_weight(window)).to(device)
    asked = torch.tensor(list(organs), device=device)
    for start in range(0, num_slices, plans.inference.slices_per_batch):
        numbers = range(start, min(num_slices, start + plans.inference.slices_per_batch))
        batch = _with_neighbours(image, numbers, reach=plans.network.neighbours)  # (B, N * C, R, W)
        batch = np.pad(batch, [(0, 0), (0, 0), *((b, m - b) for b, m in zip(before, padding, strict=True))])
        images = torch.from_numpy(batch).to(device)
        total = torch.zeros(len(images), 1 + len(asked), *padded, device=device)
        norm = torch.zeros(padded, device=device)
        parts = cores.parts(len(images))
        for row, column in corners:
            place = (..., slice(row, row + window[0]), slice(column, column + window[1]))
            predict = partial(_predict_part, networks, images[place], asked, plans=plans.inference, device=device)
            total[place] += weight * torch.cat(cores.map(predict, parts))
            norm[place] += weight
        total /= norm
        result = total[:, :, before[0] : before[0] + shape[0], before[1] : before[1] + shape[1]].cpu().numpy()
        yield from result


@torch.inference_mode()
def _predict_part(
    networks: Sequence[AutosegNetwork],
    images: Tensor,
    organs: Tensor,
    part: slice,
    *,
    plans: InferencePlan,
    device: torch.device,
) -> Tensor:
    """Average the probabilities of some slices over folds and mirrored copies: (B, N * C, r, w) to (b, 1 + K, r, w)."""
    images = images[part]
    total: Tensor | None = None
    axes = {"row": 2, "column": 3}
    flips = [
        flip for n in range(3) for flip in itertools.combinations([axes[a] for a in plans.mirror_axes if a in axes], n)
    ]
    for flip in flips:
        for network in networks:
            with mixed_precision(device):
                logits = network(images.flip(flip), organs).logits
            probs = logits.float().softmax(dim=1).flip(flip)
            total = probs if total is None else total + probs
    assert total is not None
    return total / (len(flips) * len(networks))


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Place windows over an axis: evenly, the first at 0 and the last at the end, overlapping at least as asked."""
    if size <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = -(-(size - window) // step) + 1
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def gaussian_weight(window: tuple[int, int]) -> np.ndarray:
    """Weigh the middle of a window more than its edge: (r, w), largest 1, nowhere zero."""
    profiles = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (SIGMA_SHARE * n)) ** 2) for n in window]
    return np.outer(*profiles).astype(np.float32)


def _with_neighbours(image: np.ndarray, positions: range, *, reach: int) -> np.ndarray:
    """Stack each slice with its neighbours: (C, S, R, W) to (B, N * C, R, W)."""
    numbers = neighbour_numbers(np.array(positions), num_slices=image.shape[1], reach=reach)  # (B, N)
    stacked = np.asarray(image)[:, numbers].astype(np.float32)  # (C, B, N, R, W)
    return stacked.transpose(1, 2, 0, 3, 4).reshape(len(numbers), -1, *image.shape[2:])
