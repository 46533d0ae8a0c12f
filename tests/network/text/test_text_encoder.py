import time

import open_clip
import pytest
import torch
from safetensors.torch import save

from autoseg.config.plans import TextPlan
from autoseg.errors import CheckpointError
from autoseg.network.text import text_encoder
from autoseg.network.text.text_encoder import build_text_encoder, tokenize_sentences

LIVER = "The liver is the largest gland."
SPLEEN = "The spleen lies under the left ribs."
KIDNEY = "A kidney."


def test_tokenize_pads_to_the_longest_sentence_and_marks_those_that_are_there():
    text = tokenize_sentences([[LIVER, KIDNEY], [SPLEEN]], max_tokens=64)
    assert text.is_sentence.tolist() == [[True, True], [True, False]]
    # start, nine or so word pieces and marks, end: not the limit of 64
    lengths = (text.tokens != 0).sum(dim=-1)
    assert text.tokens.shape == (2, 2, int(lengths.max())) and 8 < lengths.max() < 16
    assert text.tokens[1, 1].eq(0).all()
    assert text.tokens[0, 1].max() == text_encoder.END_OF_TEXT


def test_tokenize_a_sentence_over_the_limit_is_cut_and_keeps_its_end_mark():
    text = tokenize_sentences([["liver " * 50]], max_tokens=8)
    assert text.tokens.shape == (1, 1, 8)
    assert text.tokens[0, 0, -1] == text_encoder.END_OF_TEXT


def test_encode_the_same_sentence_is_the_same_vector_and_another_is_not(encode):
    _, (vectors, is_sentence) = encode([[LIVER], [SPLEEN], [LIVER]])
    assert vectors.shape == (3, 1, 16) and is_sentence.all()
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)


def test_scratch_tower_takes_words_that_no_sentence_has(encode):
    """All of them are one and the same unknown word: no index error, no look-up of somebody else's word."""
    encoder, _ = encode([[LIVER], [SPLEEN]])
    with torch.no_grad():
        known, odd, other = (
            encoder.tower(tokenize_sentences([[words]], max_tokens=16).tokens[0])
            for words in ("the liver", "zebra liver", "piano liver")
        )
    assert torch.equal(odd, other)
    assert bool(odd.isfinite().all()) and not torch.allclose(known, odd, atol=1e-3)
    lookup = encoder.tower.lookup
    assert lookup[0] == 0 and lookup.max() == lookup[text_encoder.END_OF_TEXT]
    assert (lookup == 1).sum() > 49_000


def test_open_clip_model_with_weights_from_a_file_is_frozen_and_runs_once(encode, small_clip):
    model, weights = small_clip
    encoder, (vectors, _) = encode(
        [[LIVER, KIDNEY], [SPLEEN]], TextPlan(model="small-clip", weights=str(weights), max_tokens=64)
    )
    assert {name.split(".")[0] for name, _ in encoder.named_parameters()} == {"projection", "position"}
    assert not any("tower" in name for name in encoder.state_dict())
    with torch.no_grad():
        tokens = open_clip.get_tokenizer("small-clip")([LIVER, SPLEEN])
        theirs = model.encode_text(tokens)
        torch.testing.assert_close(encoder.frozen_vectors[:, 0], theirs)
        torch.testing.assert_close(vectors[:, 0], encoder.projection(theirs) + encoder.position[0])


def test_open_clip_model_without_weights_is_trained(encode, small_clip):
    encoder, (vectors, _) = encode([[LIVER, KIDNEY], [SPLEEN]], TextPlan(model="small-clip"))
    assert vectors.shape == (2, 2, 16)
    encoder.train()
    encoder(torch.arange(2))[0].square().sum().backward()
    tower = {name: p for name, p in encoder.named_parameters() if name.startswith("tower.")}
    assert len(tower) > 10
    assert [name for name, p in tower.items() if p.grad is None or not p.grad.any()] == []


def test_open_clip_model_never_fetches_weights_that_the_plan_does_not_name(encode, small_clip, monkeypatch):
    """A tower of the transformers library would bring its own from the hub, had open_clip its way."""
    asked = {}
    real = open_clip.create_model

    def create(name, **options):
        asked.update(options)
        return real(name, **options)

    monkeypatch.setattr(open_clip, "create_model", create)
    encode([[LIVER]], TextPlan(model="small-clip"))
    assert asked["load_weights"] is False and asked["pretrained_text"] is False
    assert not asked.get("pretrained_image", False)


def test_open_clip_model_uses_the_tokenizer_of_that_model(encode, small_clip, monkeypatch):
    class Letters:
        context_length = 20

        def __call__(self, texts):
            return torch.tensor([[ord(letter) for letter in text[:20].ljust(20)] for text in texts])

    monkeypatch.setattr(open_clip, "get_tokenizer", lambda _name: Letters())
    encoder, _ = encode([["liver"]], TextPlan(model="small-clip"))
    assert encoder.tokens[0, 0, :5].tolist() == [ord(letter) for letter in "liver"]


@pytest.mark.parametrize(
    ("model", "weights"), [("no-such-model", None), ("small-clip", "no-such-tag"), ("small-clip", "damaged")]
)
def test_text_model_that_cannot_be_had_is_named(small_clip, tmp_path, model, weights):
    if weights == "damaged":
        (tmp_path / "damaged.pt").write_bytes(b"no weights")
        weights = str(tmp_path / "damaged.pt")
    with pytest.raises(CheckpointError, match=f"text model '{model}'"):
        build_text_encoder(TextPlan(model=model, weights=weights), [[LIVER]], feature_channels=16)


@pytest.fixture
def tag_on_hub(small_clip, hub, monkeypatch):
    """Teach open_clip a tag of the small model, whose weights are on the hub."""
    model, _ = small_clip
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small-clip", {"tag": {"hf_hub": "owner/clip/"}})
    hub.files["owner/clip", "open_clip_model.safetensors"] = save({k: v.clone() for k, v in model.state_dict().items()})
    return TextPlan(model="small-clip", weights="tag")


def frozen_vectors(plan, **options):
    return build_text_encoder(plan, [[LIVER]], feature_channels=16, **options).frozen_vectors


def test_open_clip_tag_is_fetched_once_and_offline_asks_nobody(tag_on_hub, small_clip, hub):
    fetched = frozen_vectors(tag_on_hub)
    with torch.no_grad():
        torch.testing.assert_close(
            fetched[0], small_clip[0].encode_text(open_clip.get_tokenizer("small-clip")([LIVER]))
        )
    assert ("GET", "/owner/clip/resolve/main/open_clip_model.safetensors") in hub.asked
    assert all(path == "/" or "/resolve/" in path for _, path in hub.asked)
    hub.asked.clear()
    assert torch.equal(frozen_vectors(tag_on_hub, offline=True), fetched)
    assert hub.asked == []


def test_open_clip_tag_offline_without_a_cache_is_an_error_with_a_remedy(tag_on_hub, hub):
    with pytest.raises(
        CheckpointError, match=r"nothing may be fetched \(--offline.*set network.text.weights to a file"
    ):
        frozen_vectors(tag_on_hub, offline=True)
    assert hub.asked == []


def test_open_clip_tag_without_a_network_comes_from_the_cache_or_is_an_error_soon(tag_on_hub, hub, monkeypatch):
    fetched = frozen_vectors(tag_on_hub)
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert torch.equal(frozen_vectors(tag_on_hub), fetched)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.cache / "empty"))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"http://127\.0\.0\.1:9 cannot be reached.*Run once with a network"):
        frozen_vectors(tag_on_hub)
    assert time.monotonic() - start < 3
    assert hub.asked == []
