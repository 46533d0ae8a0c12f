"""Turns sentences about organs into vectors.

Owns: tokens, the text encoder (small and trained from scratch, or pretrained and frozen), the projection to D.
Does not own: the sentences (`planning/organ_texts/`), open_clip's models (`open_clip_models.py`).

Legend: K organs, S sentences per organ (padded), L tokens per sentence, D channels.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.config.plans import TextPlan
from autoseg.network.text.open_clip_models import ClipModel, TextTransformer, Tokenizer, load_clip, tokenize

END_OF_TEXT = 49407  # the last id of open_clip's byte-pair vocabulary
SCRATCH_WIDTH = 64
SCRATCH_LAYERS = 2


@dataclass(frozen=True)
class TokenizedText:
    """All sentences of all organs.

    Attributes:
        tokens: (K, S, L) ids; missing sentences are all zero.
        is_sentence: (K, S) True where there is a sentence.
    """

    tokens: Tensor
    is_sentence: Tensor


def tokenize_sentences(
    sentences: Sequence[Sequence[str]], *, max_tokens: int, tokenizer: Tokenizer | None = None
) -> TokenizedText:
    """Turn each organ's sentences into tokens; L is the longest sentence, not the limit.

    Args:
        sentences: The sentences of each organ.
        max_tokens: The length of the tokenizer's output; longer sentences are cut.
        tokenizer: A function from sentences to (N, max_tokens) ids; None: open_clip's byte-pair tokenizer.
    """
    tokenizer = tokenizer or functools.partial(tokenize, context_length=max_tokens)
    num_sentences = max(len(group) for group in sentences)
    tokens = torch.zeros(len(sentences), num_sentences, max_tokens, dtype=torch.long)
    is_sentence = torch.zeros(len(sentences), num_sentences, dtype=torch.bool)
    for k, group in enumerate(sentences):
        tokens[k, : len(group)] = tokenizer(list(group))
        is_sentence[k, : len(group)] = True
    longest = int((tokens != 0).sum(dim=-1).max())
    return TokenizedText(tokens=tokens[..., :longest], is_sentence=is_sentence)


class ScratchTextTower(nn.Module):
    """open_clip's text transformer in a small size, with a vocabulary of the words that the plan's sentences use.

    A table of all 49,408 words would be nine tenths of the nano network and never be touched.
    """

    lookup: Tensor

    def __init__(self, vocabulary: Sequence[int], *, max_tokens: int) -> None:
        """Build the tower; `vocabulary` are open_clip's ids of the known words."""
        super().__init__()
        ids = sorted(set(vocabulary) - {0, END_OF_TEXT})
        # 0 pads, 1 is any unknown word, and the end of the text must be the largest id: the tower pools there.
        lookup = torch.ones(END_OF_TEXT + 1, dtype=torch.long)
        lookup[0] = 0
        lookup[torch.tensor(ids, dtype=torch.long)] = torch.arange(2, len(ids) + 2)
        lookup[END_OF_TEXT] = len(ids) + 2
        self.register_buffer("lookup", lookup, persistent=False)
        self.transformer = TextTransformer(
            context_length=max_tokens,
            vocab_size=len(ids) + 3,
            width=SCRATCH_WIDTH,
            heads=4,
            layers=SCRATCH_LAYERS,
            mlp_ratio=2.0,
            output_dim=SCRATCH_WIDTH,
            no_causal_mask=True,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode (N, L) tokens to (N, width)."""
        return self.transformer(self.lookup[tokens])


class TextEncoder(nn.Module):
    """Turns sentences into vectors of D; a pretrained tower runs once and is dropped, any other runs at each step."""

    tokens: Tensor
    is_sentence: Tensor
    frozen_vectors: Tensor

    def __init__(
        self, tower: nn.Module, *, text: TokenizedText, width: int, feature_channels: int, is_frozen: bool
    ) -> None:
        """Take a tower from (N, L) tokens to (N, `width`), and the sentences of the plan's organs.

        A frozen tower runs here and never again.
        """
        super().__init__()
        self.is_frozen = is_frozen
        self.register_buffer("tokens", text.tokens, persistent=False)
        self.register_buffer("is_sentence", text.is_sentence, persistent=False)
        self.projection = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, feature_channels))
        # One learned offset a position tells "what", "where" and "look" sentences apart.
        self.position = nn.Parameter(torch.zeros(text.tokens.shape[1], feature_channels))
        if is_frozen:
            with torch.no_grad():
                frozen = _run_tower(tower.eval(), text.tokens, text.is_sentence)
            self.register_buffer("frozen_vectors", frozen)
        else:
            self.tower = tower

    def forward(self, organs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (K, S, D) vectors and the (K, S) mask of the sentences of some organs, by their positions."""
        is_sentence = self.is_sentence[organs]
        if self.is_frozen:
            vectors = self.frozen_vectors[organs]
        else:
            vectors = _run_tower(self.tower, self.tokens[organs], is_sentence)
        vectors = self.projection(vectors) + self.position  # (K, S, D)
        return vectors * is_sentence.unsqueeze(-1), is_sentence

    @property
    def reader(self) -> dict[str, Tensor]:
        """The weights with which a finished model reads new text; empty where they would double the model's size.

        A frozen tower is left out, since it is loaded again from its source.
        """
        if not (self.is_frozen or isinstance(self.tower, ScratchTextTower)):
            return {}
        return {key: value for key, value in self.state_dict().items() if key != "frozen_vectors"}


def _run_tower(tower: nn.Module, tokens: Tensor, is_sentence: Tensor) -> Tensor:
    rows = tower(tokens[is_sentence])  # (N, width): only sentences that are there
    result = rows.new_zeros(*is_sentence.shape, rows.shape[-1])
    result[is_sentence] = rows
    return result  # (K, S, width)


def build_text_encoder(
    plan: TextPlan,
    sentences: Sequence[Sequence[str]],
    *,
    feature_channels: int,
    clip: ClipModel | None = None,
    offline: bool = False,
) -> TextEncoder:
    """Build the text encoder that the plan names.

    Args:
        plan: The plan of the text.
        sentences: The sentences of each organ.
        feature_channels: D.
        clip: The model that the plan names, if it is already loaded.
        offline: Whether a pretrained model comes from the hub's cache alone.

    Raises:
        CheckpointError: open_clip does not know the model, or its weights cannot be loaded.
    """
    if plan.model == "nano":
        text = tokenize_sentences(sentences, max_tokens=plan.max_tokens)
        tower: nn.Module = ScratchTextTower(text.tokens.unique().tolist(), max_tokens=text.tokens.shape[-1])
        return TextEncoder(tower, text=text, width=SCRATCH_WIDTH, feature_channels=feature_channels, is_frozen=False)
    clip = clip or load_clip(plan, offline=offline)
    full = tokenize_sentences(sentences, max_tokens=clip.tokenizer.context_length, tokenizer=clip.tokenizer)
    padded = torch.zeros(*full.tokens.shape[:-1], clip.tokenizer.context_length, dtype=torch.long)
    padded[..., : full.tokens.shape[-1]] = full.tokens
    with torch.no_grad():
        width = clip.text(padded[0, :1]).shape[-1]
    return TextEncoder(
        clip.text,
        text=TokenizedText(tokens=padded, is_sentence=full.is_sentence),
        width=width,
        feature_channels=feature_channels,
        is_frozen=plan.weights is not None,
    )
