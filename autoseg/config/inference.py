"""The part of a plan that may change at prediction without new weights.

Owns: `InferencePlan`, and which small connected components are removed.
Does not own: prediction itself (`inference/`), how a value is chosen (`rules/training.py`).
"""

from typing import Literal

from pydantic import Field

from autoseg.config.data import PlanPart

SliceOrder = Literal["outwards", "similarity", "ascending"]


class ComponentFilter(PlanPart):
    """Which detached pieces of an organ are taken for specks and removed from a label map."""

    organ: str = Field(min_length=1, max_length=200, description="its name")
    min_fraction: float = Field(0.0, ge=0, le=1, description="of the largest piece, under which a piece goes")
    min_volume_ml: float = Field(0.0, ge=0, le=1e6, description="volume under which a piece goes, the largest too")


class InferencePlan(PlanPart):
    """What may change at prediction without new weights."""

    window_overlap: float = Field(0.5, ge=0, le=0.9, description="share of a window that its neighbor sees too")
    mirror_axes: tuple[Literal["row", "column"], ...] = Field((), description="mirrored and averaged axes")
    slices_per_batch: int = Field(8, ge=1, le=4096)
    slice_order: SliceOrder = Field("outwards", description="with a memory only: which slice comes after which")
    slab_slices: int = Field(
        32, ge=1, le=4096, description="with a memory only: slices whose order is free, held at once"
    )
    component_filter: tuple[ComponentFilter, ...] = Field(
        (), description="organs whose small connected components are removed"
    )
