"""Looks up the text vectors of a finished model, computed at the end of its training.

Owns: `StoredText`, which replaces the text encoder, so that prediction needs neither open_clip nor its weights.

Legend: K organs, S sentences per organ, D channels.
"""

from collections.abc import Mapping

from torch import Tensor, nn


class StoredText(nn.Module):
    """Look up vectors computed earlier; the same call as `TextEncoder`.

    Attributes:
        reader: The text encoder's weights, for text about other organs (`encode_new_text.py`), or empty. They are not
            parameters of the network, and stay on the CPU when it moves.
    """

    vectors: Tensor
    is_sentence: Tensor

    def __init__(self, vectors: Tensor, is_sentence: Tensor, *, reader: Mapping[str, Tensor] | None = None) -> None:
        """Keep (K, S, D) vectors and their (K, S) mask."""
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.register_buffer("is_sentence", is_sentence)
        self.reader = dict(reader or {})

    def forward(self, organs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (K, S, D) vectors and the (K, S) mask of the organs at these positions."""
        return self.vectors[organs], self.is_sentence[organs]
