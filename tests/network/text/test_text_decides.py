"""After training the words decide which organ a mask shows, not the organ's number."""

import numpy as np
import pytest
import torch
from training_fixtures import compute_losses

from autoseg.network.build import build_network
from autoseg.training.data.sampler import Batch
from autoseg.training.optim.learning_rate import set_learning_rate
from autoseg.training.optim.optimizers import build_optimizers

MOST_STEPS = 400  # 80 to 200 are usual; what rounding does to the first steps decides
LOOK_EVERY = 40


def draw(rng, num_slices=4):
    """A bright and a dark disc on noise, anywhere apart; the bright one is organ 1, the dark one organ 2."""
    images = rng.normal(scale=0.2, size=(num_slices, 32, 32)).astype(np.float32)
    labels = np.zeros((num_slices, 32, 32), np.int64)
    rows, columns = np.mgrid[:32, :32]
    for image, label in zip(images, labels, strict=True):
        sides = rng.permutation([8, 24])
        for organ, (value, column) in enumerate(zip((2.0, -2.0), sides, strict=True), start=1):
            disc = (rows - rng.integers(8, 24)) ** 2 + (columns - column) ** 2 < 25
            image[disc] += value
            label[disc] = organ
    shown = torch.from_numpy(np.repeat(images[:, None], 3, axis=1))
    return Batch(shown, torch.from_numpy(labels), torch.arange(2), ("phantom",) * num_slices)


def dice(found, wanted):
    return 2 * (found & wanted).sum().item() / (found.sum() + wanted.sum()).item()


@torch.no_grad()
def organs_in(network, batch):
    """Where the network sees organ 1 and organ 2."""
    found = network.eval()(batch.images, batch.organs).logits.argmax(dim=1)
    return found == 1, found == 2


@pytest.mark.slow
def test_swapping_two_organs_texts_swaps_their_masks_after_training(tiny_plans):
    plans = tiny_plans(2)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = build_network(plans).train()
    optimizers = build_optimizers(network, plans=plans)
    unseen = draw(np.random.default_rng(1), num_slices=8)
    bright, dark = unseen.labels == 1, unseen.labels == 2
    for step in range(MOST_STEPS):
        if (
            step % LOOK_EVERY == 0
            and min(dice(*pair) for pair in zip(organs_in(network, unseen), (bright, dark), strict=True)) > 0.9
        ):
            break
        network.train()
        set_learning_rate(optimizers, 3e-3 * (1 - step / MOST_STEPS), progress=step / MOST_STEPS)
        batch = draw(rng)
        compute_losses(network(batch.images, batch.organs), batch.labels, weights=plans.training.loss)[
            "total"
        ].backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    first, second = organs_in(network, unseen)
    assert dice(first, bright) > 0.9 and dice(second, dark) > 0.9
    network.text.tokens = network.text.tokens.flip(0)
    first, second = organs_in(network, unseen)
    assert dice(first, dark) > 0.9 and dice(second, bright) > 0.9
