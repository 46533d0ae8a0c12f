import pytest
import torch

from autoseg.network.interaction import CrossModalInteraction


def interact(levels, vectors, is_sentence, early=None):
    torch.manual_seed(3)
    interaction = CrossModalInteraction(image_channels=8, channels=16, num_levels=levels).eval()
    early = torch.randn(2, 12, 10, 8, generator=torch.Generator().manual_seed(4)) if early is None else early
    with torch.no_grad():
        return interaction(early, vectors, is_sentence)


@pytest.mark.parametrize("levels", [0, 1, 2, 4])
def test_interaction_what_stands_in_the_place_of_a_missing_sentence_does_not_matter(levels):
    """An organ with one sentence beside one with three: the two empty places are filled with noise."""
    is_sentence = torch.tensor([[True, True, True], [True, False, False]])
    vectors = torch.randn(2, 3, 16)
    noisy = torch.where(is_sentence.unsqueeze(-1), vectors, torch.randn(2, 3, 16))
    semantics = interact(levels, vectors, is_sentence)
    assert semantics.shape == (2, 2, 16)
    assert torch.equal(semantics, interact(levels, noisy, is_sentence))
    wider = torch.nn.functional.pad(vectors, (0, 0, 0, 2))
    torch.testing.assert_close(semantics, interact(levels, wider, torch.nn.functional.pad(is_sentence, (0, 2))))


def test_interaction_without_levels_is_a_mean_of_the_sentences_whatever_the_image():
    vectors = torch.randn(1, 1, 16).repeat(1, 3, 1)  # three times the same sentence: any weights give it back
    is_sentence = torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(interact(0, vectors, is_sentence)[0], vectors[:, 0])
    other = interact(0, vectors, is_sentence, early=torch.randn(2, 12, 10, 8))
    assert torch.equal(interact(0, vectors, is_sentence), other)
