"""Lets a finished model read text that it was not trained on.

Owns: `read_new_text`.
Does not own: the text encoder and the choice of its weights (`text_encoder.py`, `TextEncoder.reader`), the new organs
(`inference/open_vocabulary.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.config.plans import TextPlan
from autoseg.errors import CheckpointError
from autoseg.network.text.text_encoder import ScratchTextTower, build_text_encoder, tokenize_sentences
from autoseg.network.weights.load_errors import explain_load_failure


@dataclass(frozen=True)
class NewText:
    """The encoded sentences about K organs that a finished model was not trained on.

    Attributes:
        vectors: (K, S, D), with S sentences per organ as for the model's own organs.
        is_sentence: (K, S) True where there is a sentence.
        unknown_share: (K) fraction of the words that the text encoder has never seen; 0 for a pretrained one.
    """

    vectors: Tensor
    is_sentence: Tensor
    unknown_share: list[float]


def read_new_text(
    plan: TextPlan,
    known: Sequence[Sequence[str]],
    new: Sequence[Sequence[str]],
    *,
    state: Mapping[str, Tensor],
    offline: bool = False,
) -> NewText:
    """Encode sentences about other organs as in the model's training.

    Args:
        plan: The plan of the text.
        known: The sentences of the model's own organs.
        new: The sentences of the new organs; those beyond the longest list in `known` are left out.
        state: The weights from `TextEncoder.reader`.
        offline: Whether a pretrained text model comes from the hub's cache alone.

    Raises:
        CheckpointError: A pretrained text model cannot be loaded, or the weights do not fit.
    """
    most = max(map(len, known))
    new = [sentences[:most] for sentences in new]
    channels = state["position"].shape[-1]
    numbers = torch.arange(len(new))
    unknown = [0.0] * len(new)
    if plan.model == "nano":
        encoder = build_text_encoder(plan, known, feature_channels=channels)
        limit = encoder.tokens.shape[-1]
        text = tokenize_sentences(new, max_tokens=limit)
        encoder.tokens = F.pad(text.tokens, (0, limit - text.tokens.shape[-1], 0, most - text.tokens.shape[1]))
        encoder.is_sentence = F.pad(text.is_sentence, (0, most - text.is_sentence.shape[1]))
        assert isinstance(encoder.tower, ScratchTextTower)
        unknown = [float((encoder.tower.lookup[one[one > 0]] == 1).float().mean()) for one in text.tokens]
    else:
        encoder = build_text_encoder(plan, [*known, *new], feature_channels=channels, offline=offline)
        numbers += len(known)
    try:
        keys = encoder.load_state_dict(state, strict=False)
        if keys.unexpected_keys or set(keys.missing_keys) - {"frozen_vectors"}:
            raise RuntimeError("some are missing")
    except RuntimeError as error:  # torch names shapes that differ
        raise CheckpointError(
            f"the model's text weights do not fit its plan: {explain_load_failure(error)}. Copy the model again."
        ) from error
    with torch.no_grad():
        vectors, is_sentence = encoder.eval()(numbers)
    return NewText(vectors, is_sentence, unknown)
