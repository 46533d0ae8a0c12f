"""A finished model reads text that it was not trained on.

Owns: `reader_state`, which weights that takes, and `read_new_text`, beside each other.
Does not own: the tower (`text_encoder.py`), whose text it is (`inference/open_vocabulary.py`).

Legend: K organs, S sentences an organ (padded), D channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.config.plans import TextPlan
from autoseg.errors import CheckpointError
from autoseg.network.text.text_encoder import ScratchTextTower, TextEncoder, build_text_encoder, tokenize_sentences
from autoseg.network.weights.load_errors import explain_load_failure


@dataclass(frozen=True)
class NewText:
    """What a finished model reads in sentences about other organs than its own.

    Attributes:
        vectors: (K, S, D), S as for its own organs.
        is_sentence: (K, S).
        unknown_share: (K) share of the words that its own sentences do not have, and its tower so knows nothing of; 0
            for a pretrained tower.
    """

    vectors: Tensor
    is_sentence: Tensor
    unknown_share: list[float]


def reader_state(encoder: nn.Module) -> dict[str, Tensor]:
    """Return the weights that reading new text takes; none where it would be too many, or there is no text.

    A frozen tower is had again from where it came; a large one that was trained itself would double the model.
    """
    if not isinstance(encoder, TextEncoder) or not (encoder.is_frozen or isinstance(encoder.tower, ScratchTextTower)):
        return {}
    return {key: value for key, value in encoder.state_dict().items() if key != "frozen_vectors"}


def read_new_text(
    plan: TextPlan,
    known: Sequence[Sequence[str]],
    new: Sequence[Sequence[str]],
    *,
    state: Mapping[str, Tensor],
    offline: bool = False,
) -> NewText:
    """Read sentences about other organs as a finished model would have read them in its training.

    Args:
        plan: Names the tower.
        known: Sentences of the model's own organs.
        new: Of the others; of one with more sentences than any of its own organs the last ones are left out.
        state: What `reader_state` gave.
        offline: As `build_text_encoder`.

    Raises:
        CheckpointError: A pretrained tower cannot be had, or the weights do not fit.
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
        missing = encoder.load_state_dict(state, strict=False)
    except RuntimeError as error:  # torch names shapes that differ
        raise CheckpointError(
            f"the model's text weights do not fit its plan: {explain_load_failure(error)}. Copy the model again."
        ) from error
    if missing.unexpected_keys or set(missing.missing_keys) - {"frozen_vectors"}:
        raise CheckpointError("the model's text weights do not fit its plan: some are missing. Copy the model again.")
    with torch.no_grad():
        vectors, is_sentence = encoder.eval()(numbers)
    return NewText(vectors, is_sentence, unknown)
