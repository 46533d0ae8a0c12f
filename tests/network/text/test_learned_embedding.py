import torch

from autoseg.network.text.learned_embedding import LearnedText


def test_every_organ_has_a_vector_of_its_own_by_its_number():
    text = LearnedText(4, channels=16)
    vectors, is_sentence = text(torch.tensor([2, 0]))
    assert vectors.shape == (2, 1, 16) and is_sentence.tolist() == [[True], [True]]
    assert torch.equal(vectors[:, 0], text.vectors[[2, 0], 0])
    vectors[0].sum().backward()
    assert text.vectors.grad[2].eq(1).all() and not text.vectors.grad[[0, 1, 3]].any()
