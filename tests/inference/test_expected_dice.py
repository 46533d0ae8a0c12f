import numpy as np
import pytest
import torch

from autoseg.errors import CheckpointError
from autoseg.inference.expected_dice import no_confidence


def maps(*organ_probs):
    """Give slices of one organ: (1, 2, 1, n) each, background first."""
    return [torch.tensor(np.array([[[1 - np.array(probs)], [probs]]]), dtype=torch.float32) for probs in organ_probs]


def test_maps_pass_unchanged_and_one_that_is_sure_expects_a_dice_of_one():
    confidence = no_confidence(1)
    slices = maps([1.0, 0.0], [1.0, 1.0])
    assert all(a is b for a, b in zip(slices, confidence.watch(slices), strict=True))
    assert confidence.expected_dice() == [1.0]


def test_expected_dice_of_three_pixels_by_hand():
    confidence = no_confidence(1)
    list(confidence.watch(maps([0.9, 0.7], [0.2, 0.0])))
    assert confidence.expected_dice() == [pytest.approx(2 * (0.9 + 0.7) / (2 + 0.9 + 0.7 + 0.2))]


def test_all_maps_added_at_once_as_on_a_gpu_give_the_same(rng):
    probs = torch.from_numpy(rng.normal(size=(3, 4, 6, 5))).float().softmax(dim=1)
    one_by_one, at_once = no_confidence(3), no_confidence(3)
    list(one_by_one.watch([probs[:2], probs[2:]]))
    at_once._add(probs, slice(None), best=probs.amax(dim=1, keepdim=True))
    assert one_by_one.expected_dice() == pytest.approx(at_once.expected_dice())


def test_an_organ_that_wins_nowhere_expects_nothing():
    confidence = no_confidence(2)
    list(confidence.watch([torch.tensor([[[[0.5]], [[0.2]], [[0.3]]]])]))
    assert confidence.expected_dice() == [None, None]


def test_expected_dice_is_the_mean_of_what_happens_when_the_probabilities_are_right(rng):
    probs = rng.beta(0.4, 0.6, 4000).astype(np.float32)
    confidence = no_confidence(1)
    list(confidence.watch(maps(probs)))
    predicted = probs > 0.5
    dice = []
    for _ in range(200):
        truth = rng.random(4000) < probs
        dice.append(2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()))
    assert confidence.expected_dice()[0] == pytest.approx(np.mean(dice), abs=3e-3)


def test_maps_that_are_not_finite_end_the_case():
    with pytest.raises(CheckpointError, match="not finite"):
        list(no_confidence(1).watch(maps([0.5, float("nan")])))
