"""Contains what autoseg knows about organs, as sentences that are looked up by name.

Owns: the JSON files of structures and `describe_organ`. Does not own: the text encoder (`text/text_encoder.py`).
"""

from autoseg.organs.lookup import Description, describe_organ, known_names, mentions_side
from autoseg.organs.modality import Modality, find_modality

__all__ = ["Description", "Modality", "describe_organ", "find_modality", "known_names", "mentions_side"]
