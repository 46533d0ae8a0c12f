"""The text vectors of a finished model: what the text tower gave at the end of training.

Owns: `StoredText`, which stands where the text tower stood, so that prediction needs neither open_clip nor its weights.

Legend: K organs, S sentences an organ, D channels.
"""

from collections.abc import Mapping

from torch import Tensor, nn


class StoredText(nn.Module):
    """Look up vectors computed earlier; the same call as `TextEncoder`.

    Attributes:
        reader: The tower's weights, to read text about other organs (`encode_new_text.py`); perhaps none. They
            are no part of the network, and stay where they are when it moves.
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
