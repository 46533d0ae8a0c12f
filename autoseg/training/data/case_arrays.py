"""What training needs of preprocessed cases; `preprocessing.store.CaseStore` gives it.

Owns: the protocols `Sliced` and `CaseArrays`.
"""

from typing import Any, Protocol

import numpy as np

from autoseg.preprocessing.pipeline import CaseSource


class Sliced(Protocol):
    """An array, or what reads parts of one from the disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return a part."""


class CaseArrays(Protocol):
    """Cases by their ids."""

    def open_image(self, case_id: str) -> Sliced:
        """Return the (C, S, R, W) image, sliceable without reading all of it."""

    def open_labels(self, case_id: str) -> Sliced:
        """Return the (S, R, W) indices of organs and regions, sliceable."""

    def organ_slices(self, case_id: str) -> dict[int, np.ndarray]:
        """Return, for each index of an organ or region in the case, the slices it appears in."""

    def source(self, case_id: str) -> CaseSource:
        """Return the dataset that the case comes from, and what was annotated in it."""
