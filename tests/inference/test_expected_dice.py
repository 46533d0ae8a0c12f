import numpy as np
import pytest
import torch

from autoseg.errors import CheckpointError
from autoseg.inference.expected_dice import ExpectedDice


def add(confidence, slices):
    for probs in slices:
        confidence.add(probs)


def maps(*organ_probs):
    """Give slices of one organ: (1, 2, 1, n) each, background first."""
    return [torch.tensor(np.array([[[1 - np.array(probs)], [probs]]]), dtype=torch.float32) for probs in organ_probs]


def test_one_that_is_sure_expects_a_dice_of_one():
    confidence = ExpectedDice.zeros(1)
    slices = maps([1.0, 0.0], [1.0, 1.0])
    add(confidence, slices)
    assert confidence.values() == [1.0]


def test_expected_dice_of_three_pixels_by_hand():
    confidence = ExpectedDice.zeros(1)
    add(confidence, maps([0.9, 0.7], [0.2, 0.0]))
    assert confidence.values() == [pytest.approx(2 * (0.9 + 0.7) / (2 + 0.9 + 0.7 + 0.2))]


def test_all_maps_added_at_once_as_on_a_gpu_give_the_same(rng):
    probs = torch.from_numpy(rng.normal(size=(3, 4, 6, 5))).float().softmax(dim=1)
    one_by_one, at_once = ExpectedDice.zeros(3), ExpectedDice.zeros(3)
    add(one_by_one, [probs[:2], probs[2:]])
    at_once._add(probs, slice(None), best=probs.amax(dim=1, keepdim=True))
    assert one_by_one.values() == pytest.approx(at_once.values())


def test_an_organ_that_wins_nowhere_expects_nothing():
    confidence = ExpectedDice.zeros(2)
    add(confidence, [torch.tensor([[[[0.5]], [[0.2]], [[0.3]]]])])
    assert confidence.values() == [None, None]


def test_expected_dice_is_the_mean_of_what_happens_when_the_probabilities_are_right(rng):
    probs = rng.beta(0.4, 0.6, 4000).astype(np.float32)
    confidence = ExpectedDice.zeros(1)
    add(confidence, maps(probs))
    predicted = probs > 0.5
    dice = []
    for _ in range(200):
        truth = rng.random(4000) < probs
        dice.append(2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()))
    assert confidence.values()[0] == pytest.approx(np.mean(dice), abs=3e-3)


def test_maps_that_are_not_finite_end_the_case():
    with pytest.raises(CheckpointError, match="not finite"):
        add(ExpectedDice.zeros(1), maps([0.5, float("nan")]))
