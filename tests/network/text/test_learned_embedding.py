import torch

from autoseg.network.build import build_network
from autoseg.network.text.learned_embedding import LearnedText
from autoseg.network.weights.model_file import load_model, save_model


def test_every_organ_has_a_vector_of_its_own_by_its_number():
    text = LearnedText(4, channels=16)
    vectors, is_sentence = text(torch.tensor([2, 0]))
    assert vectors.shape == (2, 1, 16) and is_sentence.tolist() == [[True], [True]]
    assert torch.equal(vectors[:, 0], text.vectors[[2, 0], 0])
    vectors[0].sum().backward()
    assert text.vectors.grad[2].eq(1).all() and not text.vectors.grad[[0, 1, 3]].any()


def test_descriptions_do_not_matter_and_a_model_file_holds_the_vectors(tiny_plans, tmp_path):
    plans = tiny_plans(2, network={"text": {"model": "learned"}})
    network = build_network(plans).eval()
    assert not any("tower" in name for name, _ in network.named_parameters())
    images, organs = torch.randn(1, 3, 32, 32), torch.arange(2)
    save_model(network, plans, tmp_path / "model.safetensors")
    loaded, _ = load_model(tmp_path / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(loaded(images, organs).logits, network(images, organs).logits)
