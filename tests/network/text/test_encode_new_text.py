import pytest
import torch

from autoseg.config.plans import TextPlan
from autoseg.errors import CheckpointError
from autoseg.network.text.encode_new_text import read_new_text

LIVER = "The liver is the largest gland."
SPLEEN = "The spleen lies under the left ribs."
KIDNEY = "A kidney."


@pytest.mark.parametrize("is_frozen", [False, True])
def test_new_text_reads_as_it_would_have_in_training(encode, small_clip, is_frozen):
    plan = TextPlan(model="small-clip", weights=str(small_clip[1])) if is_frozen else TextPlan()
    known = [[LIVER, KIDNEY], [SPLEEN]]
    encoder, (vectors, _) = encode(known, plan)
    state = encoder.reader
    assert "frozen_vectors" not in state and (is_frozen or any(key.startswith("tower.") for key in state))
    new = read_new_text(plan, known, [[SPLEEN], [LIVER, KIDNEY, SPLEEN]], state=state)
    torch.testing.assert_close(new.vectors[0], vectors[1])
    torch.testing.assert_close(new.vectors[1], vectors[0])  # a third sentence has no place
    assert new.is_sentence.tolist() == [[True, False], [True, True]]
    assert new.unknown_share == [0.0, 0.0]


def test_new_text_of_words_never_read_says_so_and_is_cut_to_the_longest_sentence(encode):
    known = [[LIVER], [SPLEEN]]
    encoder, _ = encode(known)
    new = read_new_text(TextPlan(), known, [["zebra quagga okapi " * 9], [SPLEEN]], state=encoder.reader)
    assert new.unknown_share[0] > 0.8 and new.unknown_share[1] == 0
    assert new.vectors.shape == (2, 1, 16) and new.vectors.isfinite().all()


def test_a_large_tower_that_was_trained_itself_is_not_kept(encode, small_clip):
    encoder, _ = encode([[LIVER]], TextPlan(model="small-clip"))
    assert encoder.reader == {}


def test_new_text_with_other_weights_than_the_plans_is_refused(encode):
    encoder, _ = encode([[LIVER], [SPLEEN]])
    state = encoder.reader
    with pytest.raises(CheckpointError, match="do not fit"):
        read_new_text(TextPlan(), [[LIVER], [KIDNEY]], [[SPLEEN]], state=state)
    del state["projection.1.bias"]
    with pytest.raises(CheckpointError, match="some are missing"):
        read_new_text(TextPlan(), [[LIVER], [SPLEEN]], [[SPLEEN]], state=state)
