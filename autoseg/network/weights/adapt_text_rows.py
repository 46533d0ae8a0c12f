"""Adapts a model's weights for words, sentences and organs to a plan with other words and organs.

Owns: whether two plans read text with the same encoder, and the weights with a row per word, position or organ.
Does not own: the encoders (`text/text_encoder.py`, `text/learned_embedding.py`), which organ is which
(`checkpointing/init_from_model.py`).

A pretrained encoder is frozen and not part of a model file. The layers trained behind it only fit this very encoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from autoseg.config.plans import Plans, TextPlan
from autoseg.network.text.learned_embedding import LearnedText

TOWER = "text.tower.transformer."
FIRST_KNOWN = 2  # row of a small tower's table; before it padding and any unknown word
NO_WORDS = 4  # these two rows, and those of the text's beginning and end
ROWS = ("text.vectors", "text.position", TOWER + "positional_embedding", TOWER + "token_embedding.weight")


@dataclass(frozen=True)
class FittedText:
    """Rows of text weights for another plan.

    Attributes:
        tensors: Tensors by the network's names.
        words: The number of tokens in the plan's descriptions; 0 where there is no small text encoder.
        known_words: The number of these that the model knows.
    """

    tensors: dict[str, Tensor]
    words: int = 0
    known_words: int = 0


def is_same_tower(here: TextPlan, there: TextPlan) -> bool:
    """Say whether two plans read text with the same encoder; a file of weights is compared by its name alone."""

    def identity(plan: TextPlan) -> tuple[str, str | None]:
        return plan.model, None if plan.weights is None else Path(plan.weights).name

    return identity(here) == identity(there)


def fit_text(text: nn.Module, offered: Mapping[str, Tensor], *, there: Plans, rows: Sequence[int | None]) -> FittedText:
    """Fit the weights with a row per word, position or organ; all others of the text are compared by shape.

    Args:
        text: The new network's text module, whose weights are kept in rows without a counterpart.
        offered: The model's weights by the network's names.
        there: The model's plan.
        rows: For each row of the new plan's text (an organ in one modality) the model's row, or None.
    """
    vectors, position, places, table = ROWS
    own = {name: value for name, value in text.state_dict(prefix="text.").items() if name in offered}
    if vectors in own and isinstance(text, LearnedText):
        pairs = [(here, source) for here, source in enumerate(rows) if source is not None]
        return FittedText({vectors: _with_rows(own[vectors], offered[vectors], pairs)} if pairs else {})
    fitted = {name: fit_rows(own[name], offered[name]) for name in (position, places) if name in own}
    if table not in own:
        return FittedText(fitted)
    pairs = _known_words(text, there)
    fitted[table] = _with_rows(own[table], offered[table], pairs)
    return FittedText(fitted, words=len(own[table]) - NO_WORDS, known_words=len(pairs) - NO_WORDS)


def fit_rows(new: Tensor, old: Tensor) -> Tensor:
    """Return the new rows, with as many of the old rows as fit in place of the first ones."""
    return _with_rows(new, old, [(row, row) for row in range(min(len(new), len(old)))])


def _with_rows(new: Tensor, old: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return the new rows with some replaced: each pair is a new row and the old row that replaces it.

    Rows of another width cannot be used, and are returned as they are.
    """
    if new.shape[1:] != old.shape[1:]:
        return old
    rows = new.detach().clone()
    for here, source in pairs:
        rows[here] = old[source]
    return rows


def _known_words(text: nn.Module, there: Plans) -> list[tuple[int, int]]:
    """Pair the rows of words that both vocabularies hold, and those of padding, unknown words and ends."""
    from autoseg.network.text.text_encoder import (  # open_clip is loaded
        ScratchTextTower,
        TextEncoder,
        build_text_encoder,
    )

    assert isinstance(text, TextEncoder)
    model = build_text_encoder(there.network.text, there.data.text_rows, feature_channels=text.position.shape[1])
    assert isinstance(text.tower, ScratchTextTower) and isinstance(model.tower, ScratchTextTower)
    ours, theirs = text.tower.lookup.tolist(), model.tower.lookup.tolist()
    both = [(here, source) for here, source in zip(ours, theirs, strict=True) if min(here, source) >= FIRST_KNOWN]
    return [(0, 0), (1, 1), *both]
